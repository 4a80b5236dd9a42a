//! Reads a command line that is being typed: what may stand where its last word is.

use clap::{Arg, Command};

use super::candidates::{Found, Word};

/// What a command line asks for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// The word that is being typed.
    pub(super) typed: &'a str,
    /// What may stand there.
    pub(super) place: Place,
    /// The flags that say which engine and namespace the line is about, with their values.
    pub(super) flags: Vec<(String, String)>,
}

/// What may stand in a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What is known without asking.
    Known(Found),
    /// Kinds, with categories, after `before` (other kinds and their commas).
    Kinds {
        before: String,
    },
    /// Names of objects of a kind that are not in `given`, after `before`.
    Names {
        kind: String,
        given: Vec<String>,
        before: String,
    },
    /// Kinds with a slash.
    Pairs,
    Namespaces {
        before: String,
    },
    Contexts {
        before: String,
    },
}

/// Reads `words`, which come after the program's name; `root` has been built.
pub(super) fn read<'a>(root: &Command, words: &'a [String]) -> Asked<'a> {
    let (typed, words) = words.split_last().map_or(("", words), |(typed, words)| (typed.as_str(), words));
    let mut reader = Reader { path: vec![root], positionals: Vec::new(), flags: Vec::new(), waits: None, over: false };
    words.iter().for_each(|word| reader.word(word));
    Asked { typed, place: reader.place(typed), flags: reader.flags }
}

struct Reader<'a> {
    /// The command and those above it.
    path: Vec<&'a Command>,
    positionals: Vec<String>,
    flags: Vec<(String, String)>,
    /// The flag whose value comes next.
    waits: Option<&'a Arg>,
    /// Past `--`.
    over: bool,
}

impl<'a> Reader<'a> {
    fn command(&self) -> &'a Command {
        self.path[self.path.len() - 1]
    }

    fn word(&mut self, word: &str) {
        if let Some(flag) = self.waits.take() {
            self.flags.push((flag.get_id().to_string(), word.to_owned()));
        } else if self.over {
            self.positionals.push(word.to_owned());
        } else if word == "--" {
            self.over = true;
        } else if let Some(long) = word.strip_prefix("--") {
            self.long(long);
        } else if let Some(shorts) = word.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
            self.shorts(shorts);
        } else if let Some(command) = self.command().find_subcommand(word).filter(|_| self.positionals.is_empty()) {
            self.path.push(command);
        } else {
            self.positionals.push(word.to_owned());
        }
    }

    fn long(&mut self, text: &str) {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let Some(flag) = self.flag(name) else { return };
        match value {
            Some(value) => self.flags.push((flag.get_id().to_string(), value.to_owned())),
            None if takes_next(flag) => self.waits = Some(flag),
            None => {}
        }
    }

    fn shorts(&mut self, text: &str) {
        for (at, short) in text.char_indices() {
            let Some(flag) = self.command().get_arguments().find(|arg| arg.get_short() == Some(short)) else { return };
            if flag.get_action().takes_values() {
                match text[at + short.len_utf8()..].trim_start_matches('=') {
                    "" if takes_next(flag) => self.waits = Some(flag),
                    value => self.flags.push((flag.get_id().to_string(), value.to_owned())),
                }
                return;
            }
        }
    }

    fn flag(&self, long: &str) -> Option<&'a Arg> {
        let has = |arg: &&Arg| arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|all| all.contains(&long));
        self.command().get_arguments().find(has)
    }

    fn place(&self, typed: &str) -> Place {
        if let Some(flag) = self.waits {
            return self.value(flag, "");
        }
        if self.over {
            return Place::Known(Found::Files);
        }
        if let Some((name, _)) = typed.strip_prefix("--").and_then(|long| long.split_once('=')) {
            return self.flag(name).map_or(Place::Known(Found::Nothing), |flag| self.value(flag, &format!("--{name}=")));
        }
        if typed.starts_with('-') {
            return Place::Known(Found::Words(self.flag_words()));
        }
        if self.command().has_subcommands() {
            return Place::Known(Found::Words(self.command_words()));
        }
        self.positional(typed)
    }

    fn flag_words(&self) -> Vec<Word> {
        let flags = self.command().get_arguments().filter(|arg| !arg.is_hide_set());
        let help = |arg: &Arg| arg.get_help().map(ToString::to_string).unwrap_or_default();
        flags.filter_map(|arg| Some(Word::meaning(format!("--{}", arg.get_long()?), help(arg)))).collect()
    }

    fn command_words(&self) -> Vec<Word> {
        let commands = self.command().get_subcommands().filter(|command| !command.is_hide_set());
        let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
        commands.map(|command| Word::meaning(command.get_name(), about(command))).collect()
    }

    /// What a flag takes; `before` stands before it in the same word.
    fn value(&self, flag: &Arg, before: &str) -> Place {
        let before = before.to_owned();
        let choices = flag.get_possible_values();
        if !choices.is_empty() {
            return words(&before, choices.iter().map(|choice| choice.get_name().to_owned()));
        }
        let own = |texts: &[&str]| words(&before, texts.iter().map(|text| (*text).to_owned()));
        match flag.get_id().as_str() {
            "namespace" => Place::Namespaces { before },
            "context" => Place::Contexts { before },
            "about" => Place::Pairs,
            "output" => own(&["table", "wide", "json", "yaml", "name", "jsonpath=", "custom-columns="]),
            "goal" => own(&["condition=Ready", "create", "delete", "jsonpath="]),
            "types" => own(&["Normal", "Warning"]),
            "files" | "file" | "kubeconfig" | "kustomize" | "config" | "data_dir" | "run_dir" | "manifests" | "host" | "merge" => {
                Place::Known(Found::Files)
            }
            _ => Place::Known(Found::Nothing),
        }
    }

    fn positional(&self, typed: &str) -> Place {
        let path: Vec<&str> = self.path[1..].iter().map(|command| command.get_name()).collect();
        match path.as_slice() {
            ["get" | "describe" | "delete" | "wait" | "edit" | "why"] => self.objects(typed),
            ["explain"] if self.positionals.is_empty() => Place::Kinds { before: String::new() },
            ["logs" | "exec"] if self.positionals.is_empty() => {
                Place::Names { kind: "containers".to_owned(), given: Vec::new(), before: String::new() }
            }
            ["context", "use" | "rm"] => Place::Contexts { before: String::new() },
            ["load" | "backup" | "restore"] => Place::Known(Found::Files),
            _ => {
                let argument = self.command().get_positionals().nth(self.positionals.len());
                argument.map_or(Place::Known(Found::Nothing), |argument| self.value(argument, ""))
            }
        }
    }

    /// `KIND[,KIND] NAME…` or `KIND/NAME…`.
    fn objects(&self, typed: &str) -> Place {
        if let Some((kind, _)) = typed.split_once('/') {
            let given = self.positionals.iter().filter_map(|word| word.strip_prefix(kind)?.strip_prefix('/')).map(str::to_owned).collect();
            return Place::Names { kind: kind.to_owned(), given, before: format!("{kind}/") };
        }
        match self.positionals.first() {
            None => Place::Kinds { before: typed.rfind(',').map_or(String::new(), |at| typed[..=at].to_owned()) },
            Some(first) if first.contains('/') => Place::Pairs,
            Some(first) => Place::Names { kind: first.clone(), given: self.positionals[1..].to_vec(), before: String::new() },
        }
    }
}

fn words(before: &str, texts: impl Iterator<Item = String>) -> Place {
    Place::Known(Found::Words(texts.map(|text| Word::new(format!("{before}{text}"))).collect()))
}

/// Whether a flag takes the next word as its value.
fn takes_next(flag: &Arg) -> bool {
    flag.get_action().takes_values() && !flag.is_require_equals_set()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn asked(line: &str) -> (Place, Vec<(String, String)>) {
        let mut root = crate::Cli::command();
        root.build();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let asked = read(&root, &words);
        (asked.place, asked.flags)
    }

    fn names(kind: &str, given: &[&str], before: &str) -> Place {
        Place::Names { kind: kind.into(), given: given.iter().map(|name| (*name).to_owned()).collect(), before: before.into() }
    }

    #[test]
    fn places_are_known_by_what_stands_before_them() {
        let none = String::new;
        for (line, expected) in [
            ("get ", Place::Kinds { before: none() }),
            ("get ctr,im", Place::Kinds { before: "ctr,".into() }),
            ("get ctr ", names("ctr", &[], "")),
            ("get ctr web d", names("ctr", &["web"], "")),
            ("get -n team -w ctr ", names("ctr", &[], "")),
            ("describe ctr/we", names("ctr", &[], "ctr/")),
            ("delete ctr/web ctr/", names("ctr", &["web"], "ctr/")),
            ("delete ctr/web v", Place::Pairs),
            ("logs ", names("containers", &[], "")),
            ("logs -f --tail 3 ", names("containers", &[], "")),
            ("exec web -- ls ", Place::Known(Found::Files)),
            ("get ctr -n ", Place::Namespaces { before: none() }),
            ("get ctr --namespace=t", Place::Namespaces { before: "--namespace=".into() }),
            ("--context ", Place::Contexts { before: none() }),
            ("context use ", Place::Contexts { before: none() }),
            ("events --for ", Place::Pairs),
            ("apply -f ", Place::Known(Found::Files)),
            ("version x", Place::Known(Found::Nothing)),
            ("get ctr --nonsense=x", Place::Known(Found::Nothing)),
        ] {
            assert_eq!(asked(line).0, expected, "{line}");
        }
    }

    #[test]
    fn commands_flags_and_choices_are_words() {
        for (line, expected) in [
            ("", "get"),
            ("context ", "use"),
            ("get --", "--sort-by"),
            ("get ctr -o ", "yaml"),
            ("completion ", "zsh"),
            ("delete ctr --cascade=", "--cascade=orphan"),
        ] {
            let Place::Known(Found::Words(words)) = asked(line).0 else { panic!("{line}: no words") };
            assert!(words.iter().any(|word| word.text == expected), "{line}: {words:?}");
            assert!(!words.iter().any(|word| word.text == "__complete"));
        }
    }

    #[test]
    fn flags_that_name_the_engine_are_kept() {
        let flags = asked("-nteam get --context=lab -H /x.sock ctr ").1;
        let pair = |id: &str, value: &str| (id.to_owned(), value.to_owned());
        assert_eq!(flags, [pair("namespace", "team"), pair("context", "lab"), pair("host", "/x.sock")]);
    }
}
