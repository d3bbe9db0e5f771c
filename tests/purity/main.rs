//! core/ is pure: what decides has no runtime, no client, no clock, no environment, no socket and no log. Proved over the
//! crates that it is built from, and over its sources.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sources;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates of which none may be among the dependencies of core. A name that ends in `*` stands for all that begin so.
const FORBIDDEN_CRATES: &[&str] = &[
    // Runtimes, and what only makes sense with one.
    "tokio",
    "tokio-*",
    "async-std",
    "async-global-executor",
    "async-executor",
    "smol",
    "futures",
    "futures-*",
    "mio",
    "polling",
    "rayon",
    "rayon-core",
    "crossbeam",
    "crossbeam-*",
    // Clients, servers, sockets, TLS, name resolution.
    "kube-client",
    "kube-runtime",
    "hyper",
    "hyper-*",
    "reqwest",
    "reqwest-*",
    "ureq",
    "isahc",
    "curl",
    "curl-sys",
    "h2",
    "quinn",
    "quinn-*",
    "axum",
    "axum-*",
    "tower",
    "tower-*",
    "tonic",
    "socket2",
    "rustls",
    "rustls-*",
    "native-tls",
    "openssl",
    "openssl-sys",
    "ring",
    "aws-lc-*",
    "hickory-*",
    "redis",
    // Logs and metrics.
    "tracing",
    "tracing-*",
    "log",
    "env_logger",
    "slog",
    "prometheus",
    "metrics",
    "opentelemetry*",
    // Clocks, randomness, the system.
    "chrono",
    "time",
    "rand",
    "rand_core",
    "getrandom",
    "fastrand",
    "libc",
    "rustix",
    "nix",
    "dirs",
    "dirs-sys",
    "tempfile",
    "notify",
    "signal-hook",
    "signal-hook-*",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The crates that core is built from at run time, with the features that it has on its own. Procedural macros run only in
/// the compiler.
fn dependencies_of_core() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "quartermaster-core", "-e", "normal,no-proc-macro", "--prefix", "none", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    names(&String::from_utf8(output.stdout).unwrap())
}

/// The names in what `cargo tree --prefix none` prints: `name v1.2.3 (path) (*)`.
fn names(tree: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn forbidden(names: &BTreeSet<String>) -> Vec<&str> {
    let matches = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    let names = names.iter().map(String::as_str);
    names.filter(|name| FORBIDDEN_CRATES.iter().any(|pattern| matches(name, pattern))).collect()
}

#[test]
fn core_is_built_from_no_runtime_no_client_no_clock_and_no_log() {
    let names = dependencies_of_core();
    for known in ["quartermaster-core", "serde", "kube-core", "jiff"] {
        assert!(names.contains(known), "the tree of core was not read: {names:?}");
    }
    assert_eq!(forbidden(&names), Vec::<&str>::new());
}

#[test]
fn every_forbidden_crate_is_found_in_a_tree() {
    for pattern in FORBIDDEN_CRATES {
        let name = pattern.replace('*', "x");
        let tree = format!("quartermaster-core v0.1.0 (/somewhere)\nserde v1.0.0\n{name} v0.1.0 (*)\n");
        assert_eq!(forbidden(&names(&tree)), [name.as_str()]);
    }
    assert_eq!(forbidden(&names("logos v1.0.0\ntimer v1.0.0\nserde v1.0.0\n")), Vec::<&str>::new());
}

#[test]
fn the_operator_itself_would_fail_this_check() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "quartermaster", "-e", "normal", "--prefix", "none", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let names = names(&String::from_utf8(output.stdout).unwrap());
    let found = forbidden(&names);
    for present in ["tokio", "kube-client", "kube-runtime", "reqwest", "rustls", "tracing", "prometheus"] {
        assert!(found.contains(&present), "{present}: {found:?}");
    }
}

#[test]
fn the_sources_of_core_read_no_clock_no_environment_no_file_no_socket_and_write_no_log() {
    let read = sources::check_crate(&root().join("core/src/lib.rs"));
    assert_eq!(read.findings, Vec::<String>::new());
    // Every file was either read, or is compiled for tests alone.
    let all = files(&root().join("core/src"));
    let of_tests: Vec<&PathBuf> = all.iter().filter(|file| !read.files.contains(*file)).collect();
    assert!(read.files.len() > 60, "only {} files were read", read.files.len());
    for file in &of_tests {
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(
            name.ends_with("_tests") || ["tests", "testing", "fixtures"].contains(&name),
            "{} was not read, and is no test by its name",
            file.display()
        );
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let sources = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    sources.chain(directories.iter().flat_map(|directory| self::files(directory))).collect()
}

/// What the check must find, each as a line of a function's body or as an item.
const IMPURE: &[(&str, &str)] = &[
    ("std::net", "fn f() { let _ = std::net::TcpStream::connect(\"a\"); }"),
    ("std::net", "use std::net::UdpSocket;"),
    ("std::net", "use std::net::{IpAddr, TcpListener};"),
    ("std::net", "use std::net;"),
    ("std::fs", "fn f() { let _ = std::fs::read(\"a\"); }"),
    ("std::fs", "use std::{collections::BTreeMap, fs};"),
    ("std::fs", "use ::std::fs::File as Paper;"),
    ("std::env", "fn f() { let _ = std::env::var(\"A\"); }"),
    ("std::env", "fn f() -> String { format!(\"{:?}\", std::env::args()) }"),
    ("std::thread", "use std::{thread::{self, sleep}};"),
    ("std::process", "fn f() { std::process::exit(1) }"),
    ("std::io", "fn f() { use std::io::stdout; }"),
    ("std::time::SystemTime", "fn f() { let _ = std::time::SystemTime::UNIX_EPOCH; }"),
    ("std::time::Instant", "use std::time::Instant;"),
    ("std::time::Instant", "use std::time::{Duration, Instant as Moment};"),
    ("SystemTime::now", "fn f() { SystemTime::now(); }"),
    ("Timestamp::now", "fn f() -> Timestamp { Timestamp::now() }"),
    ("Timestamp::now", "fn f() { let clock = jiff::Timestamp::now; }"),
    ("Zoned::now", "fn f() { jiff::Zoned::now(); }"),
    ("T::now", "use jiff::Timestamp as T; fn f() { T::now(); }"),
    ("tracing", "fn f() { tracing::info!(\"a\"); }"),
    ("tracing", "use tracing::warn;"),
    ("log", "fn f() { log::error!(\"a\"); }"),
    ("println!", "fn f() { println!(\"a\"); }"),
    ("eprintln!", "macro_rules! m { () => { eprintln!(\"a\") } }"),
    ("dbg!", "fn f() { vec![dbg!(1)]; }"),
    ("warn!", "fn f() { warn!(\"a\"); }"),
    ("kube::Client", "fn f(_: kube::Client) {}"),
    ("kube::Api", "use kube::{Api, ResourceExt};"),
    ("kube::api::Api", "use kube::api::{Api, ListParams};"),
    ("kube::client", "use kube::client::Body;"),
    ("kube::runtime", "use kube::runtime::watcher;"),
    ("tokio", "async fn f() { tokio::task::yield_now().await }"),
    ("getrandom", "fn f() { getrandom::fill(&mut []); }"),
    ("std as", "use std as standard;"),
    ("std::*", "use std::*;"),
    ("extern crate", "extern crate alloc;"),
    ("unsafe", "fn f() { unsafe { g() } }"),
    ("extern \"C\"", "extern \"C\" { fn time(); }"),
    ("static mut", "static mut COUNT: u32 = 0;"),
];

#[test]
fn each_impurity_is_found_where_it_stands() {
    for (what, code) in IMPURE {
        let inner = format!("mod inner {{ {code} }}");
        for text in [*code, inner.as_str()] {
            let findings = sources::check_text(text);
            assert!(findings.iter().any(|finding| finding.contains(what)), "{what} in {text}: {findings:?}");
        }
    }
}

#[test]
fn a_finding_names_the_line() {
    assert_eq!(sources::check_text("\n\nfn f() { std::env::vars(); }"), ["line 3: std::env::vars"]);
}

#[test]
fn comments_strings_tests_and_names_that_only_look_alike_are_no_findings() {
    for text in [
        "// std::fs::read\n/* std::env::var(\"A\") */\n/// tokio::spawn, println!(\"a\")\nfn f() {}",
        "//! std::net::TcpStream\nconst TEXT: &str = \"std::fs::read println!()\";",
        "#[cfg(test)]\nmod tests { fn f() { std::fs::read(\"a\"); println!(\"a\"); } }",
        "#[cfg(test)]\nuse std::fs;\n#[cfg(test)]\nfn f() { std::env::var(\"a\"); }",
        "#[test]\nfn f() { println!(\"a\"); }",
        "impl A { #[cfg(test)] fn f() { std::env::var(\"a\"); } }",
        "#[cfg(all(test, feature = \"a\"))]\nuse std::fs;",
        "use std::time::Duration; use std::collections::BTreeMap; use std::sync::Arc; use std::net::{IpAddr, Ipv6Addr};",
        "fn log(error: &str, info: u32) -> bool { error.is_empty() && info != 2 }",
        "fn f(now: jiff::Timestamp) -> String { format!(\"{now}\") }",
        "use kube::{CustomResource, core::ObjectMeta}; use kube::api::ObjectMeta as Meta;",
        "const TEXT: &str = include_str!(\"a\"); const DIRECTORY: &str = env!(\"CARGO_MANIFEST_DIR\");",
    ] {
        assert_eq!(sources::check_text(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn code_that_is_compiled_without_tests_is_read_however_the_condition_is_worded() {
    for text in [
        "#[cfg(not(test))]\nuse std::fs;",
        "#[cfg(any(test, feature = \"a\"))]\nuse std::fs;",
        "#[cfg(feature = \"test\")]\nuse std::fs;",
    ] {
        assert_eq!(sources::check_text(text).len(), 1, "{text}");
    }
}
