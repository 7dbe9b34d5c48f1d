//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod client;
mod create;
mod doctor;
mod down;
mod explain;
mod flags;
mod generate;
mod guest;
mod instances;
mod network;
mod notify;
mod relays;
mod run;
mod table;
mod token;

use crate::config::{DEFAULT_SOCKET, Overrides};

/// Exit status of a word that is not built yet, as of a wrong command line.
const NOT_BUILT: u8 = 2;

/// Exit status where no agent listens.
const NO_AGENT: u8 = 4;

/// What `--help` and the manual say of exit statuses.
const EXIT_STATUS: &str = "Exit status:
  0  done
  1  refused or failed; the reason is on standard error
  2  the command line is wrong, or the word is not built yet
  4  no agent listens on the socket";

/// The network agent of microVM hosts.
#[derive(Debug, Parser)]
#[command(name = "netagent", version, about, propagate_version = true, after_help = EXIT_STATUS)]
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
    Create(Box<create::CreateArgs>),
    /// List the instances
    Ls(Client),
    /// Show an instance with its counters
    Inspect(OneInstance),
    /// Start an instance
    Start(OneInstance),
    /// Stop an instance; its addresses stay reserved, its TAPs go, and its VMM is to be started again after it
    Stop(OneInstance),
    /// Delete an instance
    Rm(RmArgs),
    #[command(about = guest::ABOUT_SHORT, long_about = guest::ABOUT)]
    Guest(guest::GuestArgs),
    /// Show what the agent would change now
    Plan(Client),
    /// Take everything that the agent made off this host; what is stored stays, and the next run brings it back
    Down(DownArgs),
    /// Make, list and revoke tokens for the API on TCP
    #[command(subcommand)]
    Token(TokenCommand),
    /// Say whether this host can run the agent, and how to mend what is missing
    Doctor(DoctorArgs),
    #[command(about = network::ABOUT_SHORT, long_about = network::ABOUT)]
    Network(Box<network::NetworkArgs>),
    #[command(about = explain::ABOUT_SHORT, long_about = explain::ABOUT)]
    Explain(explain::ExplainArgs),
    #[command(hide = true)]
    Flows(NotBuilt),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual, or write one page for each word
    Man {
        /// Directory for the pages
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Put /sys/kernel/rcu_expedited back where agents died with it raised
    #[command(hide = true)]
    RestoreRcu,
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
struct RmArgs {
    #[command(flatten)]
    one: OneInstance,
    /// Even if other instances have it as their relay: nothing passes for them until there is one of that name again
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
struct DownArgs {
    #[command(flatten)]
    overrides: Overrides,
    /// Everything; this is what it does without the flag as well
    #[arg(long)]
    all: bool,
    /// Print JSON instead of a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it: it is shown this once
    Create {
        /// Account whose instances it reaches
        #[arg(long)]
        account: String,
        /// What it may besides
        #[arg(long, value_enum, value_delimiter = ',')]
        permission: Vec<Permission>,
        #[command(flatten)]
        client: Client,
    },
    /// List the tokens
    Ls(Client),
    /// Revoke a token
    Revoke {
        /// Id of the token
        id: String,
        #[command(flatten)]
        client: Client,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Permission {
    /// Custom interfaces, gateway and nameserver
    NetManager,
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
        Command::Create(args) => create::create(args),
        Command::Ls(client) => instances::ls(client),
        Command::Inspect(one) => instances::inspect(one),
        Command::Start(one) => instances::change(one, "start"),
        Command::Stop(one) => instances::change(one, "stop"),
        Command::Rm(args) => instances::rm(&args.one, args.force),
        Command::Guest(args) => guest::guest(args),
        Command::Plan(client) => instances::plan(client),
        Command::Down(args) => down::down(args, cli.log_format),
        Command::Doctor(args) => doctor::doctor(&args.overrides, args.json),
        Command::Network(args) => network::network(args),
        Command::Explain(args) => explain::explain(args),
        Command::Flows(_) => return not_built("flows"),
        Command::Token(command) => token::token(command),
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { out } => generate::man(out.as_deref()),
        Command::RestoreRcu => generate::restore_rcu(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netagent: {}", one_line(&error));
            if error.is::<client::NoAgent>() {
                ExitCode::from(NO_AGENT)
            } else {
                ExitCode::FAILURE
            }
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
        let cli = Cli::try_parse_from(["netagent", "flows", "x", "--format", "json"]);
        assert!(cli.is_ok());
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
        assert!(
            Cli::try_parse_from(["netagent", "create", "-f", "x", "--gateway", "1.2.3.4"]).is_err()
        );
        for flag in ["--network-policy", "--exposed-port", "--bandwidth"] {
            let line = ["netagent", "create", "-f", "x", flag, "1"];
            assert!(Cli::try_parse_from(line).is_err(), "{flag}");
        }
    }
}
