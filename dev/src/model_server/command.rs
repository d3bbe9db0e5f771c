//! The command line: a server with one of the faces.

use std::env;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::ParseIntError;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use quartermaster_core::decide::backend::arguments::extra;
use quartermaster_core::decide::backend::arguments::given::Given;

use super::control::changed;
use super::ollama_client::{self, Action};
use super::{Behaviour, CONTEXT_LENGTH, Face, ModelServer, Settings};
use crate::error::{Error, Result};

/// Settings of the simulation, as `/control/settings` takes them: the command line is that of the real server.
const SETTINGS: &str = "MODEL_SERVER_SETTINGS";

/// A server with one of the faces.
#[derive(Clone, Debug, Subcommand)]
pub enum Arguments {
    /// vLLM: takes vLLM's own arguments, with or without `serve`, and refuses what vLLM refuses. VLLM_API_KEY is its key.
    Vllm {
        /// Arguments of `vllm serve`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Ollama: listens on OLLAMA_HOST, with a context of OLLAMA_CONTEXT_LENGTH tokens, and keeps models in OLLAMA_MODELS.
    Ollama {
        /// Models that are there from the start, without a pull.
        #[arg(long = "model", value_name = "NAME")]
        models: Vec<String>,
        /// In place of the address in OLLAMA_HOST, whose port stays.
        #[arg(long)]
        host: Option<IpAddr>,
        /// As with the real one: all but serve ask the server.
        #[arg(value_enum, default_value_t = OllamaAction::Serve)]
        action: OllamaAction,
        /// The model to pull or to show.
        #[arg(required_if_eq_any([("action", "pull"), ("action", "show")]))]
        name: Option<String>,
    },
    /// Anthropic.
    Anthropic(Hosted),
    /// OpenAI.
    #[command(name = "openai")]
    OpenAI(Hosted),
}

/// What Ollama's program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OllamaAction {
    /// Serves.
    Serve,
    /// Pulls a model.
    Pull,
    /// Fails unless the server has a model.
    Show,
    /// Prints the models that the server has.
    List,
}

/// A hosted provider.
#[derive(Clone, Debug, Args)]
pub struct Hosted {
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0 stands for a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// A model that it offers.
    #[arg(long = "model", value_name = "NAME", required = true)]
    models: Vec<String>,
    /// A key that it accepts; without any it asks for none.
    #[arg(long = "api-key", value_name = "KEY", env = "MODEL_SERVER_API_KEY", hide_env_values = true)]
    api_keys: Vec<String>,
}

/// Runs a server until `end`. Calls in flight may end then, vLLM's for its `--shutdown-timeout`. `report` is told why vLLM would
/// refuse its arguments; the exit code is 2 then, as its own.
///
/// # Errors
///
/// When the settings cannot be read, or the address is taken.
pub async fn run(arguments: Arguments, report: fn(&str), end: impl Future<Output = ()>) -> Result<ExitCode> {
    let mut drain = Duration::ZERO;
    let mut settings = match arguments {
        Arguments::Vllm { arguments } => match vllm(&arguments, env::var("VLLM_API_KEY").ok()) {
            Ok((settings, timeout)) => {
                drain = timeout;
                settings
            }
            Err(refused) => {
                refused.iter().for_each(|text| report(&format!("vllm serve: error: {text}")));
                return Ok(ExitCode::from(2));
            }
        },
        Arguments::Ollama { models, host, action, name } => {
            let mut settings = ollama(models, env::var("OLLAMA_HOST").ok(), env::var("OLLAMA_CONTEXT_LENGTH").ok())?;
            if let Some(host) = host {
                settings.listen.set_ip(host);
            }
            let action = match action {
                OllamaAction::Serve => None,
                OllamaAction::Pull => Some(Action::Pull),
                OllamaAction::Show => Some(Action::Show),
                OllamaAction::List => Some(Action::List),
            };
            if let Some(action) = action {
                let done = ollama_client::run(action, settings.listen, name.as_deref().unwrap_or_default()).await;
                return Ok(done.map_or_else(
                    |error| {
                        report(&format!("Error: {error}"));
                        ExitCode::FAILURE
                    },
                    |()| ExitCode::SUCCESS,
                ));
            }
            settings.directory = env::var_os("OLLAMA_MODELS").map(PathBuf::from);
            settings
        }
        Arguments::Anthropic(hosted) => hosted.settings(Face::Anthropic),
        Arguments::OpenAI(hosted) => hosted.settings(Face::OpenAI),
    };
    if let Ok(text) = env::var(SETTINGS) {
        let failed = |source: serde_json::Error| Error::ReadSettings { variable: SETTINGS, source: Box::new(source) };
        settings.behaviour = changed(&Behaviour::default(), text.as_bytes()).map_err(failed)?;
    }
    let server = ModelServer::start(settings).await?;
    println!("listens on {}", server.address());
    end.await;
    server.stop(drain).await;
    Ok(ExitCode::SUCCESS)
}

impl Hosted {
    fn settings(self, face: Face) -> Settings {
        let names: Vec<&str> = self.models.iter().map(String::as_str).collect();
        let listen = SocketAddr::new(self.host, self.port);
        Settings { listen, api_keys: self.api_keys, ..Settings::new(face, &names) }
    }
}

/// What the arguments of `vllm serve` make, and how long it drains. The error says what vLLM refuses.
fn vllm(arguments: &[String], api_key: Option<String>) -> Result<(Settings, Duration), Vec<String>> {
    let arguments = match arguments {
        [serve, rest @ ..] if serve == "serve" => rest,
        all => all,
    };
    let (model, options) = match arguments {
        [model, rest @ ..] if !model.starts_with('-') => (Some(model.as_str()), rest),
        options => (None, options),
    };
    extra::check_as_vllm(options)?;
    let given = Given::of(options);
    let Some(model) = model.or(given.value("model")) else { return Err(vec!["no model is named".to_owned()]) };
    let served = given.values("served_model_name");
    let adapters = given.values("lora_modules").iter().filter_map(|adapter| adapter.split_once('=')).map(|(name, _)| name);
    let named = if served.is_empty() { vec![model] } else { served.iter().map(String::as_str).collect() };
    let names: Vec<&str> = named.into_iter().chain(adapters).collect();
    let mut settings = Settings::new(Face::Vllm, &names);
    let context_length = given.number("max_model_len").unwrap_or(CONTEXT_LENGTH);
    settings.models.iter_mut().for_each(|model| model.context_length = context_length);
    let host = given.value("host").unwrap_or("0.0.0.0");
    let host = host.parse().map_err(|_| vec![format!("--host: {host} is no address; the simulated server resolves no names")])?;
    let port = given.number("port").and_then(|port| u16::try_from(port).ok()).unwrap_or(8000);
    settings.listen = SocketAddr::new(host, port);
    let keys = given.values("api_key");
    settings.api_keys = if keys.is_empty() { api_key.into_iter().collect() } else { keys.to_vec() };
    let size = |dest: &str| given.number(dest).and_then(|number| usize::try_from(number).ok());
    settings.slots = size("max_num_seqs").unwrap_or(settings.slots);
    settings.queue = size("max_num_queued_reqs");
    settings.block_size = given.number("block_size").unwrap_or(settings.block_size);
    settings.blocks = given.number("num_gpu_blocks_override").unwrap_or(settings.blocks);
    settings.prompt_tokens_details = given.flag("enable_prompt_tokens_details");
    settings.force_include_usage = given.flag("enable_force_include_usage");
    Ok((settings, Duration::from_secs(given.number("shutdown_timeout").unwrap_or(0))))
}

/// What Ollama's environment makes.
fn ollama(models: Vec<String>, host: Option<String>, context_length: Option<String>) -> Result<Settings> {
    let names: Vec<&str> = models.iter().map(String::as_str).collect();
    let mut settings = Settings::new(Face::Ollama, &names);
    let host = host.unwrap_or_else(|| "127.0.0.1:11434".to_owned());
    let host = host.trim_start_matches("http://");
    let address = host.parse::<SocketAddr>().or_else(|_| host.parse::<IpAddr>().map(|host| SocketAddr::new(host, 11434)));
    settings.listen = address.map_err(|source| Error::ReadSettings { variable: "OLLAMA_HOST", source: Box::new(source) })?;
    if let Some(text) = context_length {
        let failed = |source: ParseIntError| Error::ReadSettings { variable: "OLLAMA_CONTEXT_LENGTH", source: Box::new(source) };
        let length = text.parse::<u64>().map_err(failed)?;
        settings.context_length = length;
        settings.models.iter_mut().for_each(|model| model.context_length = length);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_command_line_of_a_deployment_is_understood() {
        let line = "Qwen/Qwen3-8B --served-model-name=qwen --tensor-parallel-size=2 --max-model-len=8192 \
                    --gpu-memory-utilization=0.92 --enable-lora --max-loras=1 --lora-modules sql=org/sql --shutdown-timeout=60 \
                    --port=8000 --enable-prompt-tokens-details --host 127.66.0.3";
        for line in [line.to_owned(), format!("serve {line}")] {
            let (settings, drain) = vllm(&words(&line), Some("key".to_owned())).unwrap();
            let model = |name: &str| Model { name: name.to_owned(), context_length: 8192 };
            assert_eq!(settings.models, [model("qwen"), model("sql")]);
            assert_eq!(settings.listen, "127.66.0.3:8000".parse().unwrap());
            assert_eq!((settings.api_keys, drain), (vec!["key".to_owned()], Duration::from_secs(60)));
            assert!(settings.prompt_tokens_details && !settings.force_include_usage);
        }
    }

    #[test]
    fn what_vllm_refuses_is_refused() {
        for (line, named) in [
            ("m --swap-space 4", "--swap-space"),
            ("m --tensor-parallel-size two", "--tensor-parallel-size"),
            ("m --enable-auto-tool-choice", "parser"),
            ("--port=1", "no model"),
        ] {
            let refused = vllm(&words(line), None).unwrap_err();
            assert!(refused[0].contains(named), "{refused:?}");
        }
    }

    #[test]
    fn ollamas_program_serves_unless_it_is_told_to_ask_a_server() {
        #[derive(clap::Parser)]
        struct Program {
            #[command(subcommand)]
            arguments: Arguments,
        }
        let read = |line: &str| {
            let program = <Program as clap::Parser>::try_parse_from(words(&format!("model-server ollama {line}")));
            program.map(|program| match program.arguments {
                Arguments::Ollama { action, name, host, .. } => (action, name, host.map(|host| host.to_string())),
                _ => panic!("another face"),
            })
        };
        let host = || Some("127.64.0.2".to_owned());
        assert_eq!(read("--host 127.64.0.2 serve").unwrap(), (OllamaAction::Serve, None, host()));
        assert_eq!(read("--host 127.64.0.2 pull qwen3:8b").unwrap(), (OllamaAction::Pull, Some("qwen3:8b".to_owned()), host()));
        assert_eq!(read("list").unwrap(), (OllamaAction::List, None, None));
        assert!(read("show").is_err() && read("pull").is_err() && read("create").is_err());
    }

    #[test]
    fn the_environment_of_ollama_says_where_it_listens() {
        for (host, address) in [
            (None, "127.0.0.1:11434"),
            (Some("0.0.0.0"), "0.0.0.0:11434"),
            (Some("127.1.2.3:80"), "127.1.2.3:80"),
            (Some("http://127.1.2.3:80"), "127.1.2.3:80"),
        ] {
            let settings = ollama(vec![], host.map(str::to_owned), None).unwrap();
            assert_eq!(settings.listen, address.parse().unwrap());
        }
        assert!(ollama(vec![], Some("elsewhere".to_owned()), None).is_err());
    }
}
