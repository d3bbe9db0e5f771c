//! What the scripts of dev/ promise to the machine that they run on. Nothing is installed and nothing is built here: the
//! tools that they call are stand-ins.

// clippy.toml allows this in test functions, but not in what they share.
#![allow(clippy::unwrap_used, clippy::panic)]
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quartermaster_dev::{PATIENCE, processes};
use rustix::process::Signal;

/// What dev/bootstrap.sh takes from every machine.
const COMMON_TOOLS: [&str; 12] =
    ["awk", "bash", "cat", "chmod", "dirname", "env", "grep", "head", "sed", "sha256sum", "sort", "uname"];

/// A stand-in for apt-get that notes its arguments, and brings what the packages of this name would.
const APT_GET: &str = r#"#!/bin/bash
directory=$(dirname "$0")
echo "apt-get $*" >>"$directory/notes"
bring() { printf '#!/bin/bash\n%s\n' "$2" >"$directory/$1"; chmod +x "$directory/$1"; }
case " $* " in *' install '*) ;; *) exit 0 ;; esac
for package in "$@"; do
  case $package in
    gcc) bring cc '' ;;
    redis-server) bring redis-server '' ;;
    python3) bring python3 '' ;;
    golang-go) bring go '' ;;
    cargo) bring cargo 'echo "cargo 1.999.0"' ;;
  esac
done
"#;

/// A machine that has these tools and no others.
struct Machine(PathBuf);

impl Machine {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("quartermaster-dev-scripts-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory).with_tools(&COMMON_TOOLS)
    }

    /// Adds tools of the machine that the test runs on.
    fn with_tools(self, tools: &[&str]) -> Self {
        for tool in tools {
            let paths = std::env::var_os("PATH").unwrap();
            let found = std::env::split_paths(&paths).map(|path| path.join(tool)).find(|path| path.exists());
            symlink(found.unwrap_or_else(|| panic!("this machine lacks {tool}")), self.0.join(tool)).unwrap();
        }
        self
    }

    /// Adds a tool.
    fn with(self, tool: &str, script: &str) -> Self {
        let path = self.0.join(tool);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// A machine with apt-get, whose user has this number.
    fn of_debian(user: u32) -> Self {
        let machine = Self::new().with("apt-get", APT_GET).with("id", &format!("#!/bin/bash\necho {user}\n"));
        machine.with("apt-cache", "#!/bin/bash\necho '  Candidate: 1.999.0+dfsg1-1'\n")
    }

    fn bootstrap(&self, arguments: &[&str]) -> Output {
        Command::new(self.0.join("bash"))
            .arg(script("bootstrap.sh"))
            .args(arguments)
            .env_clear()
            .env("PATH", &self.0)
            .env("HOME", &self.0)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What was called, a line each.
    fn notes(&self) -> Vec<String> {
        fs::read_to_string(self.0.join("notes")).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_missing_is_installed_with_apt_get_after_one_update() {
    let machine = Machine::of_debian(0);
    let output = machine.bootstrap(&["linker", "rust", "redis", "python"]);
    assert!(output.status.success(), "{}", said(&output));
    let install = "apt-get install --yes --no-install-recommends -qq";
    let expected = [
        "apt-get update -qq".to_owned(),
        format!("{install} gcc libc6-dev"),
        format!("{install} cargo rustc rustfmt rust-clippy"),
        format!("{install} redis-server"),
        format!("{install} python3 python3-venv"),
    ];
    assert_eq!(machine.notes(), expected);

    let again = machine.bootstrap(&["linker", "rust", "redis", "python"]);
    assert!(again.status.success() && said(&again).is_empty(), "{}", said(&again));
    assert_eq!(machine.notes(), expected);
}

#[test]
fn another_user_than_root_installs_with_sudo_and_without_it_the_remedy_is_named() {
    let sudo = "#!/bin/bash\necho sudo >>\"$(dirname \"$0\")/notes\"\nexec \"$@\"\n";
    let machine = Machine::of_debian(1000).with("sudo", sudo);
    let output = machine.bootstrap(&["redis"]);
    assert!(output.status.success(), "{}", said(&output));
    let install = "apt-get install --yes --no-install-recommends -qq redis-server";
    assert_eq!(machine.notes(), ["sudo", "apt-get update -qq", "sudo", install]);

    let machine = Machine::of_debian(1000);
    let output = machine.bootstrap(&["redis"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("missing: redis; install Redis 7 or newer"), "{}", said(&output));
    assert_eq!(machine.notes(), Vec::<String>::new());
}

#[test]
fn a_rust_that_is_too_old_is_not_installed_and_neither_are_its_components() {
    let machine = Machine::of_debian(0).with("apt-cache", "#!/bin/bash\necho '  Candidate: 0.66.0+ds1-1'\n");
    let output = machine.bootstrap(&["rust", "rust-components"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("missing: rust; install Rust 1."), "{}", said(&output));
    // The installer of rustup would have been asked with curl, which this machine does not get either.
    assert_eq!(machine.notes(), ["apt-get update -qq", "apt-get install --yes --no-install-recommends -qq curl ca-certificates"]);
}

/// A stand-in for curl that notes what it fetches, and brings an installer of rustup that brings cargo.
const CURL: &str = r#"#!/bin/bash
directory=$(dirname "$0")
echo "curl ${*: -1}" >>"$directory/notes"
cat <<'INSTALLER'
mkdir -p "$HOME/.cargo/bin"
printf '#!/bin/bash\necho "cargo 1.999.0"\n' >"$HOME/.cargo/bin/cargo"
chmod +x "$HOME/.cargo/bin/cargo"
INSTALLER
"#;

#[test]
fn the_installer_of_rustup_is_fetched_where_the_package_is_too_old_and_only_where_the_script_may_install() {
    let machine = Machine::of_debian(0).with("apt-cache", "#!/bin/bash\necho '  Candidate: 0.66.0+ds1-1'\n").with("curl", CURL);
    let machine = machine.with_tools(&["sh", "mkdir"]);
    let output = machine.bootstrap(&["rust"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(machine.notes(), ["apt-get update -qq", "curl https://sh.rustup.rs"]);

    let of_another_system = Machine::new().with("curl", CURL);
    let of_nobody_who_may_install = Machine::of_debian(1000).with("curl", CURL);
    for machine in [of_another_system, of_nobody_who_may_install] {
        let output = machine.bootstrap(&["rust"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("missing: rust; install Rust 1."), "{}", said(&output));
        assert_eq!(machine.notes(), Vec::<String>::new());
    }
}

#[test]
fn a_check_changes_nothing_and_names_every_remedy() {
    let machine = Machine::of_debian(0).with("python3", "#!/bin/bash\nexit 1\n");
    let output = machine.bootstrap(&["--check", "linker", "python", "helm", "promtool"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("missing: linker; install a C compiler"), "{}", said(&output));
    // The Python that is there is too old.
    assert!(said(&output).contains("missing: python; install Python 3.11 to 3.14"), "{}", said(&output));
    for built in ["helm", "promtool"] {
        let remedy = format!("missing: {built}; run dev/bootstrap.sh go {built}");
        assert!(said(&output).contains(&remedy), "{}", said(&output));
    }
    assert_eq!(machine.notes(), Vec::<String>::new());
}

/// A stand-in for cargo: what it builds takes long, and winding down takes a moment.
const CARGO: &str = r#"#!/bin/bash
directory=$(dirname "$0")
case $1 in
  --version) echo 'cargo 1.999.0' ;;
  build)
    sleep 600 &
    long=$!
    ended() {
      sleep 0.5
      kill "$long"
      printf '%s\n' '---- room::a_promise stdout ----' 'what it printed' '' \
        "thread 'room::a_promise' (7) panicked at tests/room.rs:9:5:" 'one is not two' '' 'failures:' '    room::a_promise' '' \
        'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured'
      exit 1
    }
    trap ended TERM INT HUP
    echo "$long" >"$directory/build.new"
    mv "$directory/build.new" "$directory/build"
    wait
    ;;
esac
"#;

#[test]
fn interrupted_tests_end_their_stage_wait_for_it_do_not_count_as_passed_and_say_why_one_failed() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let machine = Machine::new().with("cargo", CARGO);
        let path = format!("{}:{}", machine.0.display(), std::env::var("PATH").unwrap());
        let child = Command::new("bash")
            .arg(script("test.sh"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let long = loop {
            if let Ok(number) = fs::read_to_string(machine.0.join("build")) {
                break number.trim().to_owned();
            }
            assert!(Instant::now() < deadline, "the build never began");
            thread::sleep(Duration::from_millis(20));
        };
        processes::signal(i32::try_from(child.id()).unwrap(), signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().last(), Some("3 passed, 1 failed, 0 skipped"), "{text}");
        assert!(text.lines().any(|line| line == "interrupted"), "{text}");
        let (_, why) = text.split_once("\nroom::a_promise failed:\n").unwrap_or_else(|| panic!("why a test failed: {text}"));
        assert!(why.lines().any(|line| line == "  one is not two"), "{text}");
        assert!(has_ended(&long), "left running");
    }
}

/// Whether a process has ended, be it that nobody has asked how: its parent is gone, and init may take its time.
fn has_ended(process: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    status.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim_start().starts_with('Z'))
}
