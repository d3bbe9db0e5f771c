//! What an error means that Redis answers with. The server's words are repeated, but never those about credentials: some
//! servers repeat in them what they were sent.

use super::facts::FailureCause;
use super::refusal::{Refusal, shown};

/// What an answer to a command means that is an error: its code, such as `NOPERM`, and the words after it.
pub fn of_command(command: &str, code: &str, words: &str) -> Refusal {
    let words = shown(words);
    let (cause, message) = match code {
        "NOAUTH" => (FailureCause::Unauthorized, "the server asks for a password: name the Secret that holds it".to_owned()),
        "WRONGPASS" => (FailureCause::Unauthorized, refused_credentials(code)),
        "DENIED" => (FailureCause::Unauthorized, "the server refuses connections without a password (protected mode)".to_owned()),
        "NOPERM" => (
            FailureCause::Forbidden,
            format!(
                "the account may not use {command} here ({words}): grant it +xinfo +xlen +xrange +xpending +llen on the queue's keys"
            ),
        ),
        "WRONGTYPE" => (FailureCause::WrongType, format!("{command}: the key holds another kind of value")),
        "MOVED" | "ASK" | "CROSSSLOT" => (
            FailureCause::WrongType,
            "the key lives on another node of a Redis Cluster, and redirects are not followed: name the node that has the key"
                .to_owned(),
        ),
        "LOADING" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "MISCONF" => {
            (FailureCause::Unreachable, format!("the server is not ready: {code} {words}"))
        }
        "ERR" if words.contains("max number of clients") => {
            (FailureCause::Unreachable, "the server has as many clients as it takes".to_owned())
        }
        "ERR" if words.contains("unknown command") => (
            FailureCause::WrongType,
            format!(
                "the server does not know {command}: it is older than Redis 5, a Sentinel (name the server itself), or no Redis"
            ),
        ),
        "ERR" if words.contains("DB index") => (FailureCause::WrongType, format!("the server has no such database: {words}")),
        "ERR" if command == "SELECT" && words.contains("cluster mode") => {
            (FailureCause::WrongType, "a Redis Cluster has no databases: take the number out of the URL".to_owned())
        }
        _ => (FailureCause::WrongType, format!("the server answers {command} with an error: {code} {words}")),
    };
    Refusal { cause, message }
}

/// What an answer to the credentials means that is an error. Its words are not repeated.
pub fn of_credentials(code: &str, words: &str) -> Refusal {
    let message = match code {
        "ERR" if words.contains("max number of clients") => return of_command("AUTH", code, words),
        "LOADING" | "BUSY" | "MASTERDOWN" => return of_command("AUTH", code, ""),
        "ERR" if words.contains("without any password configured") => {
            "the server has no password for the default user: name a user, or no password".to_owned()
        }
        "ERR" if words.contains("wrong number of arguments") => {
            "the server knows no users (it is older than Redis 6): name only a password".to_owned()
        }
        _ => refused_credentials(code),
    };
    Refusal { cause: FailureCause::Unauthorized, message }
}

fn refused_credentials(code: &str) -> String {
    let is_code = !code.is_empty() && code.len() <= 20 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    let code = if is_code { format!(" ({code})") } else { String::new() };
    format!("the server refuses the user or the password{code}")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("NOAUTH", "Authentication required.", FailureCause::Unauthorized, "asks for a password")]
    #[case("WRONGPASS", "invalid username-password pair", FailureCause::Unauthorized, "refuses the user or the password")]
    #[case("DENIED", "Redis is running in protected mode", FailureCause::Unauthorized, "protected mode")]
    #[case("NOPERM", "this user has no permissions to run the 'xinfo|groups' command", FailureCause::Forbidden, "+xinfo")]
    #[case("WRONGTYPE", "Operation against a key", FailureCause::WrongType, "another kind of value")]
    #[case("MOVED", "3999 127.0.0.1:6381", FailureCause::WrongType, "Redis Cluster")]
    #[case("LOADING", "Redis is loading the dataset in memory", FailureCause::Unreachable, "not ready: LOADING")]
    #[case("ERR", "max number of clients reached", FailureCause::Unreachable, "as many clients")]
    #[case("ERR", "unknown command 'XINFO', with args beginning with:", FailureCause::WrongType, "a Sentinel")]
    #[case("ERR", "DB index is out of range", FailureCause::WrongType, "no such database")]
    #[case("ERR", "something else", FailureCause::WrongType, "something else")]
    fn an_error_of_a_command_says_what_kind_of_failure_it_is(
        #[case] code: &str,
        #[case] words: &str,
        #[case] cause: FailureCause,
        #[case] message: &str,
    ) {
        let refusal = of_command("XINFO GROUPS", code, words);
        assert_eq!(refusal.cause, cause);
        assert!(refusal.message.contains(message), "{}", refusal.message);
    }

    #[test]
    fn an_error_about_credentials_never_repeats_what_was_sent() {
        for (code, words) in [
            ("ERR", "unknown command `AUTH`, with args beginning with: `hunter2`, "),
            ("WRONGPASS", "hunter2 is wrong"),
            ("hunter2", "hunter2"),
            ("LOADING", "hunter2"),
        ] {
            let refusal = of_credentials(code, words);
            assert!(!refusal.message.contains("hunter2"), "{}", refusal.message);
        }
        assert_eq!(of_credentials("WRONGPASS", "").message, "the server refuses the user or the password (WRONGPASS)");
        assert_eq!(of_credentials("LOADING", "x").cause, FailureCause::Unreachable);
        assert!(
            of_credentials("ERR", "AUTH <password> called without any password configured for the default user")
                .message
                .contains("name a user")
        );
    }
}
