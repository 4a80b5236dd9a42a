//! The compiled program is run by a small interpreter of classic BPF and compared with the policy read literally.

use super::*;

fn run(program: &Program, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let instruction = program.0[at];
        at += 1;
        match instruction.code {
            LOAD => {
                accumulator = match instruction.k {
                    NUMBER_AT => number,
                    ARCH_AT => arch,
                    offset => {
                        let word = (offset - ARGUMENTS_AT) as usize;
                        let (high, low) = halves(arguments[word / 8]);
                        if word.is_multiple_of(8) { low } else { high }
                    }
                }
            }
            AND => accumulator &= instruction.k,
            JUMP => at += instruction.k as usize,
            RETURN => return instruction.k,
            code => {
                let holds = match code {
                    JUMP_EQ => accumulator == instruction.k,
                    JUMP_GT => accumulator > instruction.k,
                    JUMP_GE => accumulator >= instruction.k,
                    other => panic!("unknown instruction {other}"),
                };
                at += usize::from(if holds { instruction.jt } else { instruction.jf });
            }
        }
    }
}

fn holds(argument: &Argument, arguments: [u64; 6]) -> bool {
    let actual = arguments[usize::from(argument.index)];
    match argument.compare {
        Compare::Ne => actual != argument.value,
        Compare::Lt => actual < argument.value,
        Compare::Le => actual <= argument.value,
        Compare::Eq => actual == argument.value,
        Compare::Ge => actual >= argument.value,
        Compare::Gt => actual > argument.value,
        Compare::MaskedEq { mask } => actual & mask == argument.value,
    }
}

fn expected(default: Action, rules: &[Rule], number: u32, arguments: [u64; 6]) -> u32 {
    let of_number = || rules.iter().filter(|rule| rule.number == number);
    let chosen = of_number()
        .find(|rule| rule.arguments.is_empty())
        .or_else(|| of_number().find(|rule| rule.arguments.iter().all(|argument| holds(argument, arguments))));
    chosen.map_or(default, |rule| rule.action).code()
}

#[test]
fn every_comparison_agrees_with_the_policy() {
    let values = [0, 1, 7, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0007, u64::MAX - 1, u64::MAX];
    let compares =
        [Compare::Ne, Compare::Lt, Compare::Le, Compare::Eq, Compare::Ge, Compare::Gt, Compare::MaskedEq { mask: 0x1_0000_0007 }];
    for compare in compares {
        for value in values {
            let first = Argument { index: 0, compare, value };
            let second = Argument { index: 3, compare: Compare::Ne, value: 5 };
            let rules = [Rule { number: 9, action: Action::Allow, arguments: vec![first, second] }];
            let program = Program::compile(Action::Errno(1), &rules).unwrap();
            for actual in values {
                for other in [4, 5] {
                    let arguments = [actual, 0, 0, other, 0, 0];
                    let answer = run(&program, ARCH_X86_64, 9, arguments);
                    assert_eq!(answer, expected(Action::Errno(1), &rules, 9, arguments), "{compare:?} {value:#x} {actual:#x}");
                }
            }
        }
    }
}

#[test]
fn every_number_agrees_with_the_policy() {
    let allowed = (0..460_u32).filter(|number| number % 7 != 3 && number % 50 != 0);
    let rules: Vec<Rule> = allowed.map(|number| Rule { number, action: Action::Allow, arguments: Vec::new() }).collect();
    let program = Program::compile(Action::Errno(1), &rules).unwrap();
    for number in 0..600 {
        assert_eq!(run(&program, ARCH_X86_64, number, [0; 6]), expected(Action::Errno(1), &rules, number, [0; 6]), "{number}");
    }
}

#[test]
fn other_architectures_do_not_get_through() {
    let rules = [Rule { number: 1, action: Action::Allow, arguments: Vec::new() }];
    let program = Program::compile(Action::Errno(1), &rules).unwrap();
    assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), Action::KillProcess.code(), "i386");
    assert_eq!(run(&program, ARCH_X86_64, X32_BIT | 1, [0; 6]), Action::Errno(38).code(), "x32");
    assert_eq!(run(&program, ARCH_X86_64, X32_BIT - 1, [0; 6]), Action::Errno(1).code());
}

#[test]
fn first_of_several_conditions_wins_and_none_means_the_default() {
    let personality =
        |value| Rule { number: 135, action: Action::Allow, arguments: vec![Argument { index: 0, compare: Compare::Eq, value }] };
    let rules = [personality(0), personality(8), personality(0xffff_ffff)];
    let program = Program::compile(Action::Errno(1), &rules).unwrap();
    for value in [0, 1, 8, 0xffff_ffff] {
        let arguments = [value, 0, 0, 0, 0, 0];
        assert_eq!(run(&program, ARCH_X86_64, 135, arguments), expected(Action::Errno(1), &rules, 135, arguments));
    }
}

#[test]
fn an_argument_that_does_not_exist_is_refused() {
    let argument = Argument { index: 6, compare: Compare::Eq, value: 0 };
    let rules = [Rule { number: 1, action: Action::Allow, arguments: vec![argument] }];
    assert!(Program::compile(Action::Allow, &rules).is_err());
}
