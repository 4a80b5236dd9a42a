//! Device rules on cgroup v2: no file takes them, a program that the kernel asks at every open and mknod does.
//!
//! The last rule that applies decides, as in the v1 controller's order of writes. A rule that allows applies to an access that it
//! covers whole, one that denies to an access that it touches. Without any that applies, the use is allowed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::DeviceRule;
use crate::bpf::{self, Instruction};

/// `BPF_DEVCG_ACC_*`.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;
/// `BPF_DEVCG_DEV_*`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// Registers: what is asked for, and one to reckon in.
const RESULT: u8 = 0;
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Offsets in `struct bpf_cgroup_dev_ctx`.
const ACCESS_TYPE_AT: i16 = 0;
const MAJOR_AT: i16 = 4;
const MINOR_AT: i16 = 8;

/// Jumps that end a rule early; the distance is known when the rule is complete.
struct Rule {
    code: Vec<Instruction>,
    jumps: Vec<usize>,
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, constant: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, constant }
}

/// `BPF_LDX | BPF_W | BPF_MEM`.
fn load(to: u8, offset: i16) -> Instruction {
    instruction(0x61, to, SCRATCH, offset, 0)
}

/// `BPF_ALU64 | BPF_MOV | BPF_X`.
fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

/// `BPF_ALU64 | BPF_AND | BPF_K`.
fn and(to: u8, mask: i32) -> Instruction {
    instruction(0x57, to, 0, 0, mask)
}

/// `BPF_ALU64 | BPF_MOV | BPF_K` into the result, `BPF_JMP | BPF_EXIT`.
fn answer(allow: bool) -> [Instruction; 2] {
    [instruction(0xb7, RESULT, 0, 0, i32::from(allow)), instruction(0x95, 0, 0, 0, 0)]
}

impl Rule {
    /// `BPF_JMP | BPF_JNE | BPF_K` to the next rule.
    fn unless_equal(&mut self, register: u8, value: i32) {
        self.jumps.push(self.code.len());
        self.code.push(instruction(0x55, register, 0, 0, value));
    }

    /// `BPF_JMP | BPF_JEQ | BPF_K` to the next rule.
    fn unless_different(&mut self, register: u8, value: i32) {
        self.jumps.push(self.code.len());
        self.code.push(instruction(0x15, register, 0, 0, value));
    }

    fn compile(rule: &DeviceRule) -> io::Result<Self> {
        let mut this = Self { code: Vec::new(), jumps: Vec::new() };
        let access = rule.access.chars().fold(0, |mask, letter| {
            mask | match letter {
                'm' => MKNOD,
                'r' => READ,
                'w' => WRITE,
                _ => 0,
            }
        });
        match rule.kind {
            'b' => this.unless_equal(KIND, BLOCK),
            'c' | 'u' => this.unless_equal(KIND, CHARACTER),
            _ => {}
        }
        if access != ALL {
            this.code.push(copy(SCRATCH, ACCESS));
            if rule.allow {
                this.code.push(and(SCRATCH, ALL & !access));
                this.unless_equal(SCRATCH, 0);
            } else {
                this.code.push(and(SCRATCH, access));
                this.unless_different(SCRATCH, 0);
            }
        }
        let asked = [(MAJOR, rule.major), (MINOR, rule.minor)];
        for (register, value) in asked {
            let Some(value) = value else { continue };
            this.unless_equal(register, i32::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?);
        }
        this.code.extend(answer(rule.allow));
        for at in &this.jumps {
            let distance = i16::try_from(this.code.len() - at - 1).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
            if let Some(jump) = this.code.get_mut(*at) {
                jump.offset = distance;
            }
        }
        Ok(this)
    }
}

/// The program for these rules.
fn compile(rules: &[DeviceRule]) -> io::Result<Vec<Instruction>> {
    let mut program = vec![
        load(KIND, ACCESS_TYPE_AT),
        copy(ACCESS, KIND),
        and(KIND, 0xffff),
        // `BPF_ALU64 | BPF_RSH | BPF_K`: the access lies in the upper half.
        instruction(0x77, ACCESS, 0, 0, 16),
        load(MAJOR, MAJOR_AT),
        load(MINOR, MINOR_AT),
    ];
    for rule in rules.iter().rev() {
        let rule = Rule::compile(rule)?;
        let decides_all = rule.jumps.is_empty();
        program.extend(rule.code);
        if decides_all {
            // The kernel refuses a program with instructions that cannot be reached.
            return Ok(program);
        }
    }
    program.extend(answer(true));
    Ok(program)
}

/// Puts the rules into force for a cgroup of the unified hierarchy, in place of those before.
pub(super) fn restrict(cgroup: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let program = bpf::load(&compile(rules)?)?;
    let cgroup = File::open(cgroup)?;
    bpf::attach(cgroup.as_fd(), program.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: char, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access: access.to_owned() }
    }

    /// Runs the program as the kernel would.
    fn judge(program: &[Instruction], kind: i32, access: i32, major: i64, minor: i64) -> bool {
        let mut registers = [0_i64; 11];
        let mut at = 0;
        for _ in 0..10_000 {
            let now = program[at];
            let (to, from) = (usize::from(now.registers & 15), usize::from(now.registers >> 4));
            let constant = i64::from(now.constant);
            at += 1;
            match now.code {
                0x61 => {
                    let context = [i64::from(access << 16 | kind), major, minor];
                    registers[to] = context[usize::try_from(now.offset).unwrap() / 4];
                }
                0xbf => registers[to] = registers[from],
                0x57 => registers[to] &= constant,
                0x77 => registers[to] >>= constant,
                0xb7 => registers[to] = constant,
                0x55 if registers[to] != constant => at += usize::try_from(now.offset).unwrap(),
                0x15 if registers[to] == constant => at += usize::try_from(now.offset).unwrap(),
                0x55 | 0x15 => {}
                0x95 => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
        panic!("does not end");
    }

    #[test]
    fn the_last_rule_that_applies_decides() {
        let rules = [
            rule(false, 'a', None, None, "rwm"),
            rule(true, 'c', None, None, "m"),
            rule(true, 'c', Some(1), Some(3), "rwm"),
            rule(true, 'c', Some(136), None, "rw"),
            rule(true, 'b', Some(8), Some(0), "r"),
            rule(false, 'c', Some(136), Some(7), "w"),
        ];
        let program = compile(&rules).unwrap();
        for (kind, access, major, minor, allowed) in [
            (CHARACTER, READ | WRITE, 1, 3, true),
            (BLOCK, READ, 1, 3, false),
            (CHARACTER, READ, 1, 4, false),
            (CHARACTER, MKNOD, 99, 99, true),
            (BLOCK, MKNOD, 99, 99, false),
            (CHARACTER, READ | WRITE, 136, 2, true),
            (CHARACTER, READ, 136, 7, true),
            (CHARACTER, READ | WRITE, 136, 7, false),
            (BLOCK, READ, 8, 0, true),
            (BLOCK, READ | WRITE, 8, 0, false),
            (CHARACTER, READ, 300, 70_000, false),
        ] {
            assert_eq!(judge(&program, kind, access, major, minor), allowed, "{kind} {access} {major}:{minor}");
        }
        assert!(judge(&compile(&[]).unwrap(), BLOCK, WRITE, 8, 0), "no rule, no restriction");
        assert!(compile(&[rule(true, 'c', Some(1 << 40), None, "r")]).is_err());
    }

    #[test]
    fn the_kernel_takes_such_a_program() {
        let rules = [rule(false, 'a', None, None, "rwm"), rule(true, 'c', Some(1), Some(3), "rw"), rule(false, 'b', None, Some(4), "m")];
        match bpf::load(&compile(&rules).unwrap()) {
            Ok(_) => {}
            // A kernel without CONFIG_CGROUP_BPF, or a host that keeps it to itself: the caller says so.
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM | libc::ENOSYS)), "{error}"),
        }
    }
}
