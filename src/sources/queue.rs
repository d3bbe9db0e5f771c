//! A queue on a server: where the server is, how it lets us in, and what is read there.

use quartermaster_core::decide::pool::list_backlog::ProcessingKey;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::tls::TlsSettings;

/// How a server lets us in. White space around the values is not sent.
#[derive(Clone, Debug, Default)]
pub struct Credential {
    /// The user. Redis: of the ACL, the default user without it. Prometheus: with it basic authentication, without it the
    /// password is sent as a bearer token.
    pub username: Option<SecretString>,
    /// The password or token.
    pub password: Option<SecretString>,
}

/// A server, as the objects of one namespace reach it. Namespaces share no connection.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The namespace of the objects that name it.
    pub namespace: String,
    /// The URL as the user gave it.
    pub url: String,
    /// How it lets us in.
    pub credential: Credential,
    /// How to agree on TLS, where the URL asks for it.
    pub tls: TlsSettings,
}

/// What is read from a server, in one form for each kind of server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// A consumer group of a Redis stream.
    RedisStream {
        /// The stream's key.
        stream: String,
        /// The group.
        group: String,
    },
    /// Redis lists.
    RedisList {
        /// Keys of the lists that tasks wait in.
        keys: Vec<String>,
        /// Keys of the lists that agents hold tasks in while they work on them; `None` where the spec names none.
        processing: Option<Vec<ProcessingKey>>,
    },
    /// An expression of Prometheus.
    Prometheus {
        /// The expression.
        query: String,
        /// Whether an expression that finds nothing means no tasks.
        empty_is_zero: bool,
    },
}

/// The kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum System {
    /// Redis, or what speaks its protocol.
    Redis,
    /// Prometheus, or what has its query API.
    Prometheus,
}

impl System {
    /// The name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Prometheus => "prometheus",
        }
    }
}

impl Queue {
    /// The kind of server that has it.
    pub fn system(&self) -> System {
        match self {
            Self::RedisStream { .. } | Self::RedisList { .. } => System::Redis,
            Self::Prometheus { .. } => System::Prometheus,
        }
    }

    /// Whether the tasks are the same ones: what was read of one is known of the other. The agents' own lists come and go with
    /// their pods.
    pub fn has_the_tasks_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::RedisList { keys, .. }, Self::RedisList { keys: others, .. }) => keys == others,
            _ => self == other,
        }
    }
}

/// What tells one connection from another: namespace, server, credential and TLS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    system: System,
    namespace: String,
    url: String,
    /// Of everything that is secret or long. A digest, so that no key of a map holds a password.
    digest: [u8; 32],
}

impl EndpointKey {
    /// The kind of server.
    pub fn system(&self) -> System {
        self.system
    }

    /// Whether it is the same server, though perhaps with another credential or other settings of TLS.
    pub fn is_same_server(&self, other: &Self) -> bool {
        (self.system, &self.namespace, &self.url) == (other.system, &other.namespace, &other.url)
    }
}

impl Endpoint {
    /// What tells its connection from others.
    pub fn key(&self, system: System) -> EndpointKey {
        let mut digest = Sha256::new();
        let mut add = |part: Option<&[u8]>| {
            // The lengths keep apart what would otherwise run together.
            digest.update([u8::from(part.is_some())]);
            digest.update(part.map_or(0, <[u8]>::len).to_be_bytes());
            digest.update(part.unwrap_or_default());
        };
        add(bytes(self.credential.username.as_ref()));
        add(bytes(self.credential.password.as_ref()));
        add(self.tls.authority.as_deref());
        add(Some(&[u8::from(self.tls.skip_verification)]));
        EndpointKey { system, namespace: self.namespace.clone(), url: self.url.clone(), digest: digest.finalize().into() }
    }
}

/// A secret as it is sent.
fn bytes(secret: Option<&SecretString>) -> Option<&[u8]> {
    secret.map(|secret| secret.expose_secret().trim().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            namespace: "team".to_owned(),
            url: "redis://redis:6379".to_owned(),
            credential: Credential { username: Some("coder".into()), password: Some("hunter2".into()) },
            tls: TlsSettings::default(),
        }
    }

    #[test]
    fn connections_are_shared_only_where_namespace_server_credential_and_tls_are_the_same() {
        let key = |endpoint: Endpoint| endpoint.key(System::Redis);
        let same = key(endpoint());
        assert_eq!(key(endpoint()), same);
        let spaced = Credential { password: Some(" hunter2\n".into()), ..endpoint().credential };
        assert_eq!(key(Endpoint { credential: spaced, ..endpoint() }), same, "white space is not sent");
        let shifted = Credential { username: Some("coderh".into()), password: Some("unter2".into()) };
        let nobody = Credential { username: None, ..endpoint().credential };
        for other in [
            Endpoint { namespace: "other".to_owned(), ..endpoint() },
            Endpoint { url: "redis://redis:6379/1".to_owned(), ..endpoint() },
            Endpoint { credential: shifted, ..endpoint() },
            Endpoint { credential: nobody, ..endpoint() },
            Endpoint { tls: TlsSettings { skip_verification: true, authority: None }, ..endpoint() },
            Endpoint { tls: TlsSettings { skip_verification: false, authority: Some(Arc::from(b"x".as_slice())) }, ..endpoint() },
        ] {
            assert_ne!(key(other.clone()), same, "{other:?}");
        }
        assert_ne!(endpoint().key(System::Prometheus), same);
    }

    #[test]
    fn neither_an_endpoint_nor_its_key_prints_a_credential() {
        let printed = format!("{:?} {:?}", endpoint(), endpoint().key(System::Redis));
        assert!(!printed.contains("hunter2") && !printed.contains("coder"), "{printed}");
    }

    #[test]
    fn a_list_stays_the_same_when_pods_come_and_go() {
        let list = |key: &str, pod: Option<&str>| Queue::RedisList {
            keys: vec![key.to_owned()],
            processing: pod.map(|pod| vec![ProcessingKey { key: pod.to_owned(), consumer: Some(pod.to_owned()) }]),
        };
        assert!(list("a", Some("p-1")).has_the_tasks_of(&list("a", None)));
        assert!(!list("a", None).has_the_tasks_of(&list("b", None)));
        let stream = |group: &str| Queue::RedisStream { stream: "a".to_owned(), group: group.to_owned() };
        assert!(stream("g").has_the_tasks_of(&stream("g")) && !stream("g").has_the_tasks_of(&stream("h")));
    }
}
