//! Exit codes and errors of commands.

use std::process::{ExitCode, Termination};

/// See `docs/operate.md`, "Exit codes".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Live or ready, or the question was answered.
    Success,
    /// An internal or platform step failed.
    Internal,
    /// Usage or set-up.
    Usage,
    /// Build or push failed.
    Build,
    /// Unhealthy, rolled back.
    Unhealthy,
    /// Cancelled.
    Cancelled,
    /// A newer deployment took its place.
    Superseded,
    /// Still running when the wait was over.
    StillRunning,
    /// The API key was refused.
    Auth,
    /// Refused, or not found.
    Refused,
    /// As the command that was run ended.
    Command(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Internal => 1,
            Exit::Usage => 2,
            Exit::Build => 3,
            Exit::Unhealthy => 4,
            Exit::Cancelled => 5,
            Exit::Superseded => 6,
            Exit::StillRunning => 7,
            Exit::Auth => 8,
            Exit::Refused => 9,
            Exit::Command(code) => code,
        }
    }

    /// Of a command that was run; one that a signal ended has none that fits.
    pub(super) fn of_command(code: i32) -> Self {
        Exit::Command(u8::try_from(code).unwrap_or(u8::MAX))
    }

    /// The exit of a failed deployment, by the number of its error code.
    pub fn of_failure(code: u32) -> Self {
        match code {
            3 => Exit::Build,
            4 => Exit::Unhealthy,
            5 => Exit::Cancelled,
            6 => Exit::Superseded,
            9 => Exit::Refused,
            _ => Exit::Internal,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// A command that did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// The input, the rule and the remedy.
    pub message: String,
}

impl Failure {
    /// With this exit.
    pub fn new(exit: Exit, message: impl std::fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// Usage or set-up.
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What a refused or failed call of the API means.
    pub fn of_call(status: &tonic::Status) -> Self {
        use tonic::Code;
        let exit = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => Exit::Auth,
            Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Unimplemented => Exit::Refused,
            Code::InvalidArgument => Exit::Usage,
            Code::Aborted => Exit::Unhealthy,
            _ => Exit::Internal,
        };
        Self::new(exit, status.message())
    }
}
