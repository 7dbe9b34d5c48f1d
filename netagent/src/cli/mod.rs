//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod client;
mod doctor;
mod down;
mod instances;
mod run;
mod table;

use crate::config::{DEFAULT_SOCKET, Overrides};

/// Exit status of a word that is not built yet, as of a wrong command line.
const NOT_BUILT: u8 = 2;

/// The network agent of microVM hosts.
#[derive(Debug, Parser)]
#[command(name = "netagent", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written
    #[arg(long, global = true, env = "NETAGENT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Run(Overrides),
    /// Create an instance, and start it
    Create(CreateArgs),
    /// List the instances
    Ls(Client),
    /// Show an instance with its counters
    Inspect(OneInstance),
    /// Start an instance
    Start(OneInstance),
    /// Stop an instance; its addresses stay reserved
    Stop(OneInstance),
    /// Delete an instance
    Rm(OneInstance),
    /// Show what the agent would change now
    Plan(Client),
    /// Remove everything that an agent left on this host
    Down(Overrides),
    /// Say whether this host can run the agent, and how to mend what is missing
    Doctor(DoctorArgs),
    #[command(hide = true)]
    Network(NotBuilt),
    #[command(hide = true)]
    Guest(NotBuilt),
    #[command(hide = true)]
    Explain(NotBuilt),
    #[command(hide = true)]
    Flows(NotBuilt),
    #[command(hide = true)]
    Token(NotBuilt),
}

/// How a command reaches the agent, and how it answers.
#[derive(Args, Clone, Debug)]
struct Client {
    /// Unix socket of the agent
    #[arg(long, env = "NETAGENT_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct OneInstance {
    /// Id or name of the instance
    instance: String,
    #[command(flatten)]
    client: Client,
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// File with the instance as JSON; `-` reads standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name", "autostart", "tap_owner", "tap_group", "queues"])]
    file: Option<PathBuf>,
    /// Name of the instance [default: generated]
    #[arg(long)]
    name: Option<String>,
    /// Whether to start it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    autostart: Option<bool>,
    /// User that may open the TAP [default: root, where no group is named]
    #[arg(long, value_name = "USER")]
    tap_owner: Option<String>,
    /// Group that may open the TAP [default: root, where no user is named]
    #[arg(long, value_name = "GROUP")]
    tap_group: Option<String>,
    /// Queues of the TAP [default: 1]
    #[arg(long, value_name = "N")]
    queues: Option<u16>,
    /// Does nothing: there is no namespace per VM
    #[arg(long, hide = true)]
    no_netns: bool,
    #[command(flatten)]
    client: Client,
}

#[derive(Args, Debug)]
struct DoctorArgs {
    #[command(flatten)]
    overrides: Overrides,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// A word that is known and does nothing yet, with whatever follows it.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
struct NotBuilt {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(overrides) => run::run(overrides, cli.log_format),
        Command::Create(args) => instances::create(args),
        Command::Ls(client) => instances::ls(client),
        Command::Inspect(one) => instances::inspect(one),
        Command::Start(one) => instances::change(one, "start"),
        Command::Stop(one) => instances::change(one, "stop"),
        Command::Rm(one) => instances::rm(one),
        Command::Plan(client) => instances::plan(client),
        Command::Down(overrides) => down::down(overrides, cli.log_format),
        Command::Doctor(args) => doctor::doctor(&args.overrides, args.json),
        Command::Network(_) => return not_built("network"),
        Command::Guest(_) => return not_built("guest"),
        Command::Explain(_) => return not_built("explain"),
        Command::Flows(_) => return not_built("flows"),
        Command::Token(_) => return not_built("token"),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netagent: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, each once: some texts say their cause themselves, before the remedy.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text.replace('\n', " ")
}

fn not_built(word: &str) -> ExitCode {
    eprintln!("netagent: {word}: not supported yet");
    ExitCode::from(NOT_BUILT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_that_are_not_built_take_any_arguments() {
        for word in ["network", "guest", "explain", "flows", "token"] {
            let cli = Cli::try_parse_from(["netagent", word, "x", "--format", "json"]);
            assert!(cli.is_ok(), "{word}");
        }
    }

    #[test]
    fn an_error_says_each_cause_once_and_on_one_line() {
        let source = std::io::Error::other("no\nsuch thing");
        let told = crate::config::ConfigError::Read {
            path: "/x".into(),
            source,
        };
        let text = one_line(&anyhow::Error::from(told));
        assert_eq!(
            text,
            "cannot read /x: no such thing: make it readable, or name another with --config"
        );
        let chained = anyhow::anyhow!("cause").context("what");
        assert_eq!(one_line(&chained), "what: cause");
    }

    #[test]
    fn a_file_excludes_the_flags_that_it_would_override() {
        assert!(Cli::try_parse_from(["netagent", "create", "-f", "x", "--name", "a"]).is_err());
        assert!(Cli::try_parse_from(["netagent", "create", "-f", "-", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["netagent", "create", "--autostart", "false"]).is_ok());
    }
}
