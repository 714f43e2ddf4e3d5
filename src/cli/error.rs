//! What can go wrong, and the exit code it has.

use super::cluster::ClusterError;
use super::connect::ConnectError;
use super::download::DownloadError;
use super::exit::Exit;
use super::follow::FollowError;
use super::gateway::GatewayError;
use super::inputs::InputError;
use super::parameters::ParameterError;
use super::target::TargetError;
use super::terminal::PrintError;
use super::upload::UploadError;
use super::verbs::history::HistoryError;
use super::verbs::logs::LogsError;
use super::verbs::outputs::OutputsError;
use super::verbs::run::RunError;
use super::verbs::shards::ShardsError;

/// Any error of the command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// Following a run.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// Parameters.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// Inputs.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Sending a file.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// Where a file goes.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Fetching a file.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// Submitting a run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Choosing outputs.
    #[error(transparent)]
    Outputs(#[from] OutputsError),
    /// Finding a log.
    #[error(transparent)]
    Logs(#[from] LogsError),
    /// Listing shards.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// Finding a history.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Writing to stdout.
    #[error(transparent)]
    Print(#[from] PrintError),
}

impl CliError {
    /// The code for the shell.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            _ if self.is_silent() => Exit::Ok,
            Self::Parameter(_) | Self::Input(_) | Self::Target(TargetError::Several { .. }) => Exit::Usage,
            Self::Run(error) => error.exit(),
            Self::Connect(_)
            | Self::Cluster(_)
            | Self::Gateway(_)
            | Self::Follow(_)
            | Self::Upload(_)
            | Self::Target(_)
            | Self::Download(_)
            | Self::Outputs(_)
            | Self::Logs(_)
            | Self::Shards(_)
            | Self::History(_)
            | Self::Print(_) => Exit::Error,
        }
    }

    /// Whether there is something to say: a reader who left needs no sentence.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Print(PrintError::Gone) | Self::Follow(FollowError::Print(PrintError::Gone)) => true,
            Self::Download(error) => error.is_reader_gone(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CliError;
    use crate::exit::Exit;
    use crate::inputs::InputError;
    use crate::parameters::ParameterError;
    use crate::terminal::PrintError;
    use crate::verbs::run::RunError;

    #[test]
    fn what_was_typed_wrong_is_told_from_what_went_wrong() {
        for (error, exit) in [
            (CliError::from(ParameterError::Split("x".into())), Exit::Usage),
            (InputError::Missing("archive".into()).into(), Exit::Usage),
            (RunError::Parameters(vec!["/x: no".into()], "d".into()).into(), Exit::Usage),
            (RunError::Exists { name: "x".into(), field: "its team" }.into(), Exit::Error),
            (PrintError::Write(std::io::Error::other("disk full")).into(), Exit::Error),
        ] {
            assert_eq!(error.exit(), exit, "{error}");
            assert!(!error.is_silent());
        }
        let gone = CliError::from(PrintError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert_eq!((gone.exit(), gone.is_silent()), (Exit::Ok, true));
    }
}
