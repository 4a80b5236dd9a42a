//! seccomp filters as a binary tree over ranges of system call numbers.
//!
//! A policy allows most numbers in long runs, so the numbers are cut into ranges of one decision each and found by halving: some
//! 140 instructions for a policy of 300 calls, where one comparison a call takes 1,500, which the kernel verifies and runs once
//! for every number when it is loaded.

use std::io;

/// What the filter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The call goes on.
    Allow,
    /// The call goes on and is logged.
    Log,
    /// The call fails with this errno.
    Errno(u16),
    /// A tracer is asked; without one the call fails with ENOSYS.
    Trace(u16),
    /// SIGSYS.
    Trap,
    /// The thread ends.
    KillThread,
    /// The process ends.
    KillProcess,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::Trace(data) => libc::SECCOMP_RET_TRACE | u32::from(data),
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// How an argument is compared, as 64 unsigned bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Equal.
    Eq,
    /// Greater or equal.
    Ge,
    /// Greater.
    Gt,
    /// `argument & mask == value`.
    MaskedEq {
        /// The bits that count.
        mask: u64,
    },
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// Which, 0 to 5.
    pub index: u8,
    /// How.
    pub compare: Compare,
    /// With what.
    pub value: u64,
}

/// What happens to one system call when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its number on x86_64.
    pub number: u32,
    /// The answer.
    pub action: Action,
    /// All of them must hold; none: always.
    pub arguments: Vec<Argument>,
}

/// One instruction.
type Instruction = libc::sock_filter;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
/// `AUDIT_ARCH_X86_64`.
const ARCH_X86_64: u32 = 0xc000_003e;
/// The first number of the x32 calls, which share the architecture's value.
const X32_BIT: u32 = 0x4000_0000;
/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// A jump that is filled in once the length of its rule is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Pass,
    Fail,
}

struct Step {
    instruction: Instruction,
    jt: To,
    jf: To,
}

fn step(code: u16, k: u32) -> Step {
    Step { instruction: plain(code, k), jt: To::Next, jf: To::Next }
}

fn test(code: u16, k: u32, jt: To, jf: To) -> Step {
    Step { instruction: plain(code, k), jt, jf }
}

fn halves(value: u64) -> (u32, u32) {
    (u32::try_from(value >> 32).unwrap_or(0), u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0))
}

/// The comparison of one argument: leaves at `Fail` when it does not hold, goes on behind its last step when it does.
fn compare(argument: Argument) -> Vec<Step> {
    let low_at = ARGUMENTS_AT + 8 * u32::from(argument.index);
    let (load_low, load_high) = (step(LOAD, low_at), step(LOAD, low_at + 4));
    let (high, low) = halves(argument.value);
    match argument.compare {
        Compare::Eq => {
            vec![load_high, test(JUMP_EQ, high, To::Next, To::Fail), load_low, test(JUMP_EQ, low, To::Next, To::Fail)]
        }
        Compare::Ne => {
            vec![load_high, test(JUMP_EQ, high, To::Next, To::Pass), load_low, test(JUMP_EQ, low, To::Fail, To::Next)]
        }
        Compare::MaskedEq { mask } => {
            let (mask_high, mask_low) = halves(mask);
            vec![
                load_high,
                step(AND, mask_high),
                test(JUMP_EQ, high, To::Next, To::Fail),
                load_low,
                step(AND, mask_low),
                test(JUMP_EQ, low, To::Next, To::Fail),
            ]
        }
        Compare::Gt | Compare::Ge => {
            let code = if argument.compare == Compare::Gt { JUMP_GT } else { JUMP_GE };
            vec![
                load_high,
                test(JUMP_GT, high, To::Pass, To::Next),
                test(JUMP_EQ, high, To::Next, To::Fail),
                load_low,
                test(code, low, To::Next, To::Fail),
            ]
        }
        Compare::Lt | Compare::Le => {
            let code = if argument.compare == Compare::Lt { JUMP_GE } else { JUMP_GT };
            vec![
                load_high,
                test(JUMP_GT, high, To::Fail, To::Next),
                test(JUMP_EQ, high, To::Next, To::Pass),
                load_low,
                test(code, low, To::Fail, To::Next),
            ]
        }
    }
}

/// One rule: its conditions, then its answer; falls out behind itself when a condition does not hold.
fn rule_code(arguments: &[Argument], action: Action) -> Vec<Instruction> {
    let blocks: Vec<Vec<Step>> = arguments.iter().map(|argument| compare(*argument)).collect();
    let total: usize = blocks.iter().map(Vec::len).sum();
    let mut code = Vec::new();
    let mut end_of_block = 0;
    for block in blocks {
        end_of_block += block.len();
        for step in block {
            let here = code.len() + 1;
            let offset = |to: To| match to {
                To::Next => 0,
                To::Pass => u8::try_from(end_of_block - here).unwrap_or(u8::MAX),
                To::Fail => u8::try_from(total + 1 - here).unwrap_or(u8::MAX),
            };
            code.push(Instruction { jt: offset(step.jt), jf: offset(step.jf), ..step.instruction });
        }
    }
    code.push(plain(RETURN, action.code()));
    code
}

/// What happens to one number: rules in order, the last of them without conditions.
fn decision(rules: &[&Rule], default: Action) -> Vec<Instruction> {
    if let Some(always) = rules.iter().find(|rule| rule.arguments.is_empty()) {
        return vec![plain(RETURN, always.action.code())];
    }
    let mut code: Vec<Instruction> = rules.iter().flat_map(|rule| rule_code(&rule.arguments, rule.action)).collect();
    code.push(plain(RETURN, default.code()));
    code
}

fn tree(ranges: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    match ranges {
        [] => Vec::new(),
        [(_, code)] => code.clone(),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let start = right.first().map_or(0, |(start, _)| *start);
            let (left, right) = (tree(left), tree(right));
            let mut code = match u8::try_from(left.len()) {
                Ok(skip) => vec![branch(JUMP_GE, start, skip, 0)],
                Err(_) => vec![branch(JUMP_GE, start, 0, 1), plain(JUMP, u32::try_from(left.len()).unwrap_or(u32::MAX))],
            };
            code.extend(left);
            code.extend(right);
            code
        }
    }
}

/// A program ready to be loaded.
#[derive(Debug, Clone)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// Compiles a policy for x86_64: calls of i386 end the process, x32 calls fail with ENOSYS.
    ///
    /// # Errors
    /// `E2BIG` above the kernel's limit of instructions, `EINVAL` for an argument above 5.
    pub fn compile(default: Action, rules: &[Rule]) -> io::Result<Self> {
        if rules.iter().flat_map(|rule| &rule.arguments).any(|argument| argument.index > 5) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut by_number: std::collections::BTreeMap<u32, Vec<&Rule>> = std::collections::BTreeMap::new();
        for rule in rules.iter().filter(|rule| rule.number < X32_BIT - 1) {
            by_number.entry(rule.number).or_default().push(rule);
        }
        let otherwise = vec![plain(RETURN, default.code())];
        let mut ranges: Vec<(u32, Vec<Instruction>)> = vec![(0, otherwise.clone())];
        let mut set = |start: u32, code: Vec<Instruction>| match ranges.last_mut() {
            Some((last, old)) if *last == start => *old = code,
            Some((_, old)) if same(old, &code) => {}
            _ => ranges.push((start, code)),
        };
        for (number, rules) in by_number {
            set(number, decision(&rules, default));
            set(number + 1, otherwise.clone());
        }
        set(X32_BIT, vec![plain(RETURN, Action::Errno(libc::ENOSYS as u16).code())]);
        let ranges = merged(ranges);
        let mut code = vec![
            plain(LOAD, ARCH_AT),
            branch(JUMP_EQ, ARCH_X86_64, 1, 0),
            plain(RETURN, Action::KillProcess.code()),
            plain(LOAD, NUMBER_AT),
        ];
        code.extend(tree(&ranges));
        if code.len() > MAX_INSTRUCTIONS { Err(io::Error::from_raw_os_error(libc::E2BIG)) } else { Ok(Self(code)) }
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none: never.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts this process, and all that it starts, under the filter. There is no way back.
    ///
    /// # Errors
    /// `EACCES` without both CAP_SYS_ADMIN and no_new_privs.
    pub fn load(&self) -> io::Result<()> {
        let length = libc::c_ushort::try_from(self.0.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        let program = libc::sock_fprog { len: length, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: `program` points to `length` instructions of `self`, which live over the call; the kernel only reads them.
        let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn same(left: &[Instruction], right: &[Instruction]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| (a.code, a.jt, a.jf, a.k) == (b.code, b.jt, b.jf, b.k))
}

/// Neighbours with one decision become one range.
fn merged(ranges: Vec<(u32, Vec<Instruction>)>) -> Vec<(u32, Vec<Instruction>)> {
    let mut kept: Vec<(u32, Vec<Instruction>)> = Vec::new();
    for (start, code) in ranges {
        if kept.last().is_none_or(|(_, last)| !same(last, &code)) {
            kept.push((start, code));
        }
    }
    kept
}

#[cfg(test)]
mod tests;
