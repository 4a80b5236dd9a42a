//! From what is wished and what is there to the next step: a pure function.

use gantry_api::effects::{Change, Effect};
use gantry_api::kinds::container::{DesiredState, RestartPolicy};

use super::record::{Record, StopReason};
use crate::runtime::{Exit, ObservedState, Started};

/// What the object asks of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It is deleted or bound elsewhere: nothing of it should be here.
    Gone,
    /// It should exist, and run or not.
    Present {
        /// Whether it should run.
        state: DesiredState,
        /// What happens when its process ends by itself.
        restart_policy: RestartPolicy,
    },
}

/// What is here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here<'a> {
    /// What its shim says; `None` when there is no trace of a sandbox.
    pub(crate) state: Option<&'a ObservedState>,
    /// What it was last started from.
    pub(crate) record: Option<&'a Record>,
    /// What differs between that and the wish.
    pub(crate) changes: &'a [Change],
}

/// What to do next. After every step the world is looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Everything is as it should be: it runs.
    KeepRunning(Started),
    /// Everything is as it should be: it does not run, and this is how it ended, if it ever ran.
    KeepStopped(Option<Exit>),
    /// Changes that a running container takes up.
    ApplyLive,
    /// Ask the process to end; kill it after the grace period.
    Stop(StopReason),
    /// Take sandbox and writable layer away; the container is then made anew.
    Discard,
    /// Take a sandbox whose shim is gone away; the writable layer stays.
    RemoveSandbox,
    /// Make the sandbox if need be and start the process.
    Start(StartReason),
    /// Take everything of the container away.
    TearDown,
}

/// Why a process is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartReason {
    /// Wished, or asked for by a person; counts as no restart.
    Wished,
    /// Its process ended by itself; the back-off applies.
    Policy(Exit),
    /// Its shim or the whole host went away under it; the back-off applies.
    Lost,
}

/// The next step.
pub(crate) fn plan(wish: Wish, here: Here<'_>) -> Step {
    match wish {
        Wish::Gone => plan_gone(here),
        Wish::Present { state, restart_policy } => plan_present(state, restart_policy, here),
    }
}

fn plan_gone(here: Here<'_>) -> Step {
    match here.state {
        Some(ObservedState::Running(_)) => Step::Stop(StopReason::Remove),
        _ => Step::TearDown,
    }
}

fn plan_present(wished: DesiredState, policy: RestartPolicy, here: Here<'_>) -> Step {
    let worst = here.changes.iter().map(|change| change.effect).max().unwrap_or(Effect::None);
    match here.state {
        Some(ObservedState::Lost { .. }) => Step::RemoveSandbox,
        Some(ObservedState::Running(started)) => match (worst, wished) {
            (Effect::Replace, _) => Step::Stop(StopReason::Replace),
            (_, DesiredState::Stopped) => Step::Stop(StopReason::Stopped),
            (Effect::Restart, _) => Step::Stop(StopReason::Restart),
            (Effect::Live, _) => Step::ApplyLive,
            (Effect::None, _) => Step::KeepRunning(*started),
        },
        _ if worst == Effect::Replace => Step::Discard,
        Some(ObservedState::Exited(exit)) => plan_ended(wished, policy, here, Some(*exit), worst),
        Some(ObservedState::Created) => match wished {
            DesiredState::Running => Step::Start(StartReason::Wished),
            DesiredState::Stopped => Step::KeepStopped(None),
        },
        None => plan_absent(wished, policy, here, worst),
    }
}

/// No sandbox: it never ran, or the host came up anew, or the sandbox was lost and taken away.
fn plan_absent(wished: DesiredState, policy: RestartPolicy, here: Here<'_>, worst: Effect) -> Step {
    match here.record {
        Some(record) => match record.exit {
            Some(exit) => plan_ended(wished, policy, here, Some(exit), worst),
            None if wished == DesiredState::Running && policy != RestartPolicy::Never => Step::Start(StartReason::Lost),
            None => Step::KeepStopped(None),
        },
        None if wished == DesiredState::Running => Step::Start(StartReason::Wished),
        None => Step::KeepStopped(None),
    }
}

fn plan_ended(wished: DesiredState, policy: RestartPolicy, here: Here<'_>, exit: Option<Exit>, worst: Effect) -> Step {
    if wished == DesiredState::Stopped {
        return Step::KeepStopped(exit);
    }
    if here.record.is_some_and(|record| record.stopping.is_some()) || worst == Effect::Restart {
        return Step::Start(StartReason::Wished);
    }
    match (policy, exit) {
        (RestartPolicy::Never, _) => Step::KeepStopped(exit),
        (RestartPolicy::OnFailure, Some(end)) if end.code == 0 => Step::KeepStopped(exit),
        (_, Some(end)) => Step::Start(StartReason::Policy(end)),
        (_, None) => Step::Start(StartReason::Wished),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const RUNNING: Wish = Wish::Present { state: DesiredState::Running, restart_policy: RestartPolicy::Always };
    const STARTED: Started = Started { pid: 7, at_unix_nanos: 1 };
    const FAILED: Exit = Exit { code: 1, signal: None, oom_killed: false, at_unix_nanos: 2, started: STARTED };
    const DONE: Exit = Exit { code: 0, ..FAILED };

    fn change(effect: Effect) -> Change {
        Change { path: "spec.x".into(), effect, old: Value::Null, new: Value::Null }
    }

    fn with_policy(restart_policy: RestartPolicy) -> Wish {
        Wish::Present { state: DesiredState::Running, restart_policy }
    }

    #[expect(clippy::needless_pass_by_value, reason = "tables read better")]
    fn step(wish: Wish, state: Option<ObservedState>, record: Option<&Record>, effect: Effect) -> Step {
        plan(wish, Here { state: state.as_ref(), record, changes: &[change(effect)] })
    }

    #[test]
    fn a_running_container_is_left_alone_changed_live_or_stopped() {
        let running = || Some(ObservedState::Running(STARTED));
        assert_eq!(step(RUNNING, running(), None, Effect::None), Step::KeepRunning(STARTED));
        assert_eq!(step(RUNNING, running(), None, Effect::Live), Step::ApplyLive);
        assert_eq!(step(RUNNING, running(), None, Effect::Restart), Step::Stop(StopReason::Restart));
        assert_eq!(step(RUNNING, running(), None, Effect::Replace), Step::Stop(StopReason::Replace));
        assert_eq!(step(Wish::Gone, running(), None, Effect::None), Step::Stop(StopReason::Remove));
    }

    #[test]
    fn an_end_is_the_policys_business_unless_it_was_asked_for() {
        let exited = |exit| Some(ObservedState::Exited(exit));
        let asked = Record { stopping: Some(StopReason::Restart), ..Record::default() };
        assert_eq!(step(RUNNING, exited(DONE), None, Effect::None), Step::Start(StartReason::Policy(DONE)));
        assert_eq!(step(with_policy(RestartPolicy::OnFailure), exited(DONE), None, Effect::None), Step::KeepStopped(Some(DONE)));
        assert_eq!(
            step(with_policy(RestartPolicy::OnFailure), exited(FAILED), None, Effect::None),
            Step::Start(StartReason::Policy(FAILED))
        );
        assert_eq!(step(with_policy(RestartPolicy::Never), exited(FAILED), None, Effect::None), Step::KeepStopped(Some(FAILED)));
        assert_eq!(step(with_policy(RestartPolicy::Never), exited(DONE), Some(&asked), Effect::None), Step::Start(StartReason::Wished));
        assert_eq!(step(RUNNING, exited(DONE), None, Effect::Replace), Step::Discard);
    }

    #[test]
    fn a_finished_container_stays_finished_when_its_sandbox_is_gone() {
        let finished = Record { exit: Some(DONE), ..Record::default() };
        let cut_off = Record::default();
        assert_eq!(step(with_policy(RestartPolicy::Never), None, Some(&finished), Effect::None), Step::KeepStopped(Some(DONE)));
        assert_eq!(step(with_policy(RestartPolicy::Never), None, Some(&cut_off), Effect::None), Step::KeepStopped(None));
        assert_eq!(step(with_policy(RestartPolicy::OnFailure), None, Some(&cut_off), Effect::None), Step::Start(StartReason::Lost));
        assert_eq!(step(RUNNING, None, None, Effect::None), Step::Start(StartReason::Wished));
    }

    #[test]
    fn what_should_be_gone_is_taken_away_whatever_is_left_of_it() {
        for state in
            [None, Some(ObservedState::Created), Some(ObservedState::Exited(DONE)), Some(ObservedState::Lost { reason: String::new() })]
        {
            assert_eq!(step(Wish::Gone, state, None, Effect::None), Step::TearDown);
        }
    }
}
