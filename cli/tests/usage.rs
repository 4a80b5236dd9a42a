//! Command lines that make no sense, and an engine that is not there: exit codes, and where what is said goes.

#![expect(clippy::disallowed_methods, reason = "a test runs the program")]

use std::process::{Command, Output, Stdio};

fn gantry(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    for name in ["GANTRY_HOST", "GANTRY_KUBECONFIG", "KUBECONFIG", "GANTRY_DATA_DIR"] {
        command.env_remove(name);
    }
    command.args(["-H", "/nowhere/gantry.sock"]).args(line.split(' ')).env("HOME", "/nowhere").env("XDG_CONFIG_HOME", "/nowhere");
    command.stdin(Stdio::null()).output().expect("run gantry")
}

#[test]
fn nonsense_ends_with_2_and_a_word_on_stderr() {
    for (line, said) in [
        ("nonsense", "unrecognized subcommand"),
        ("get", "name what"),
        ("get ctr -o xml", "none of table, wide, json"),
        ("get ctr -o go-template={{.a}}", "jsonpath"),
        ("get ctr -o jsonpath={.a", "closing brace"),
        ("get ctr -o custom-columns=A", "HEADING:PATH"),
        ("get ctr -o jsonpath-file=/absent", "read /absent"),
        ("get ctr --sort-by {.a", "closing brace"),
        ("get ctr -w --sort-by .a", "cannot be used with"),
        ("get ctr --chunk-size=-1", "chunk-size"),
        ("get ctr/web img", "KIND/NAME"),
        ("get ctr/", "KIND/NAME"),
        ("get ,", "names no kind"),
        ("get ctr,img web", "names go with one kind"),
        ("get ctr web -l a=b", "not both"),
        ("get ctr web -A", "not both"),
        ("get -k overlay", "kubectl kustomize overlay"),
        ("get --raw version", "begins with /"),
        ("get ctr -f x", "not both"),
        ("describe", "name what"),
        ("apply", "--filename"),
        ("apply -k overlay", "kubectl kustomize"),
        ("apply -f x --prune", "--set"),
        ("apply -f x --timeout=soon", "no duration"),
        ("plan", "--filename"),
        ("delete", "name what"),
        ("delete ctr", "--selector or --all"),
        ("delete ctr web --all", "not both"),
        ("delete ctr --all -l a=b", "not both"),
        ("delete ctr -A", "--all or a selector"),
        ("delete ctr web --grace-period=0", "--force"),
        ("delete ctr web --grace-period=-1", "grace-period"),
        ("delete ctr web --now --grace-period=3", "cannot be used with"),
        ("delete ctr web --cascade=all", "orphan"),
        ("delete ctr web -o json", "name"),
        ("edit ctr", "KIND/NAME"),
        ("wait ctr/web --for=ready", "condition=NAME"),
        ("wait ctr web --all", "not both"),
        ("explain", "KIND"),
        ("explain ctr..spec", "KIND.FIELD"),
        ("why ctr", "KIND/NAME"),
        ("logs", "<NAME>"),
        ("logs img/x", "not a container"),
        ("exec web", "COMMAND"),
        ("events --for ctr", "KIND/NAME"),
        ("completion tcsh", "bash"),
        ("context", "Usage"),
        ("context add", "<NAME>"),
        ("context rm", "<NAME>"),
        ("get ctr --request-timeout=1x", "no duration"),
    ] {
        let output = gantry(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.contains(said), "{line}: {stderr}");
    }
}

#[test]
fn an_engine_that_is_not_there_ends_with_1_and_a_remedy() {
    for line in [
        "get ctr",
        "get all",
        "delete ctr web",
        "describe ctr/web",
        "events",
        "api-resources",
        "explain ctr",
        "why ctr/web",
        "logs web",
        "wait ctr/web",
        "version",
    ] {
        let output = gantry(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(stderr.contains("connect to") && stderr.contains("gantry serve"), "{line}: {stderr}");
        assert!(output.stdout.is_empty() || line == "version", "{line}");
    }
}

#[test]
fn help_and_completion_need_no_engine() {
    for line in ["--help", "get --help", "--version", "completion zsh", "__complete -- ge", "__complete -- get ctr w"] {
        let output = gantry(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{line}");
    }
}
