//! `tianyu node image`, `flash`, `provision`, `push`, `registry` and `calibrate`: a node made by writing a
//! file.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway::configs::{Configs, What};
use gateway::control::Request;
use gateway::credentials::Credentials;
use gateway::node_file::board::{Board, ToolKind};
use gateway::node_file::{NodeFile, room, unhex};
use gateway::{accept, listing};
use node::config::IMAGE_BYTES_MAX;
use node::settings::SETTINGS_BYTES_MAX;
use spool::Disk;
use telemetry::NodeName;

use super::node::{order, tell};
use super::{calibrate, provision};

/// How often it is looked whether a node has taken a config.
const LOOK: Duration = Duration::from_millis(250);

/// What is asked.
#[derive(clap::Subcommand)]
pub(super) enum FieldCommand {
    /// Write a node's images: what it measures, and (private) who it is and whom it trusts
    Image {
        /// The node file; see gateway/examples/nodes
        file: PathBuf,
        /// Folder for the images
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        #[command(flatten)]
        token: TokenArguments,
        /// Who makes it; kept with the config
        #[arg(long, value_name = "WHO", default_value_t = person())]
        by: String,
    },
    /// Print, or run, the tool's command that writes the board's firmware
    Flash {
        /// The node file
        file: PathBuf,
        /// Folder with the released firmware images
        #[arg(long, value_name = "DIR", default_value = ".")]
        images: PathBuf,
        /// Run it instead of printing it
        #[arg(long)]
        run: bool,
        /// The drive of a board that takes UF2 files, where it is not found
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Write settings and config to a flashed board over its console, and read back what it runs
    Provision {
        /// The node file
        file: PathBuf,
        /// A serial port such as /dev/ttyACM0, or unix:PATH, or tcp:HOST:PORT
        #[arg(long, value_name = "PORT")]
        serial: String,
        /// Leave the settings as they are
        #[arg(long)]
        config_only: bool,
        #[command(flatten)]
        token: TokenArguments,
        /// Who does it; kept with the config
        #[arg(long, value_name = "WHO", default_value_t = person())]
        by: String,
    },
    /// Send a config to a node through the running gateway, and follow what becomes of it
    Push {
        /// The node file
        file: PathBuf,
        /// How long to wait for the node to take it, in seconds; it is sent all the same later
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        /// Who wants it; kept with the config
        #[arg(long, value_name = "WHO", default_value_t = person())]
        by: String,
    },
    /// Print a node's entry for sites.toml
    Registry {
        /// The node file
        file: PathBuf,
    },
    /// Calibrate a channel at one or two points, and give the node the new config
    Calibrate(calibrate::CalibrateArguments),
}

/// Where a node's token is.
#[derive(clap::Args)]
pub(super) struct TokenArguments {
    /// File with the node's token; made, with new credentials, where it is not there (NAME.token)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Does it.
pub(super) fn run(data: &Path, command: FieldCommand) -> anyhow::Result<ExitCode> {
    let load = |file: &Path| match NodeFile::load(file) {
        Ok(node) => Ok(node),
        Err(complaints) => {
            eprintln!("{}", listing(&complaints));
            Err(ExitCode::from(super::WRONG))
        }
    };
    macro_rules! load {
        ($file:expr) => {
            match load($file) {
                Ok(node) => node,
                Err(code) => return Ok(code),
            }
        };
    }
    match command {
        FieldCommand::Image { file, out, token, by } => image(data, &load!(&file), &out, &token, &by)?,
        FieldCommand::Flash { file, images, run, to } => return flash(&load!(&file).board, &images, run, to),
        FieldCommand::Provision { file, serial, config_only, token, by } => {
            let node = load!(&file);
            let folder = file.parent().unwrap_or(Path::new("."));
            let settings = match config_only {
                true => None,
                false => Some(settings(data, &node, &token_file(&token, folder, &node.name))?),
            };
            let config = |runs| keep_above(data, &node, &by, runs).map(|(number, _, image)| (number, image));
            provision::run(&serial, &node, settings.as_deref(), config)?;
        }
        FieldCommand::Push { file, wait, by } => return push(data, &load!(&file), wait, &by),
        FieldCommand::Registry { file } => {
            let since = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
            print!("{}", load!(&file).registry_entry(&since));
        }
        FieldCommand::Calibrate(arguments) => {
            let node = load!(arguments.file());
            return calibrate::run(data, arguments, &node);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever sits at this machine.
pub(super) fn person() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|key| std::env::var(key).ok());
    named.filter(|it| !it.trim().is_empty()).unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// What a right node file means, in a line or two.
pub(super) fn summary(node: &NodeFile) -> String {
    let mut image = [0; IMAGE_BYTES_MAX];
    let bytes = node.config.encode(&mut image).unwrap_or(0);
    let channels = (node.config.channels.len(), node.config.actuators.len());
    let mut text = format!(
        "{}: {} ({}), {} channels and {} actuators every {} s, config image {bytes} bytes",
        node.name,
        node.board.title,
        status(&node.board),
        channels.0,
        channels.1,
        node.config.period_s,
    );
    if let Some(room) = room::ring(&node.board, &node.config) {
        text.push_str(&format!("\n{}: {room}", node.name));
    }
    text
}

fn status(board: &Board) -> &'static str {
    use gateway::node_file::board::Status;
    match board.status {
        Status::Emulated => "runs in emulation",
        Status::Builds => "builds; not tried on hardware",
    }
}

/// The config image under a number, and its digest.
pub(super) fn encode(node: &NodeFile, number: u16) -> Result<(Vec<u8>, u32), String> {
    let mut config = node.config.clone();
    config.number = number;
    let mut image = vec![0; IMAGE_BYTES_MAX];
    let length = config.encode(&mut image).map_err(|error| error.to_string())?;
    image.truncate(length);
    Ok((image, config.digest()))
}

/// Keeps a node's config under the next number: number, digest, image.
pub(super) fn keep(data: &Path, node: &NodeFile, by: &str) -> anyhow::Result<(u16, u32, Vec<u8>)> {
    keep_above(data, node, by, 0)
}

fn keep_above(data: &Path, node: &NodeFile, by: &str, floor: u16) -> anyhow::Result<(u16, u32, Vec<u8>)> {
    anyhow::ensure!(!by.trim().is_empty(), "say who this is: --by WHO");
    // A node may have had configs from elsewhere: it takes only newer ones.
    let runs = match data.join("spool").is_dir() {
        true => accept::described(&Disk, data).with_context(|| format!("read the log in {}", data.display()))?,
        false => Default::default(),
    };
    let told = runs.iter().find(|(name, _)| *name == node.name).map_or(0, |(_, it)| it.config);
    let floor = floor.max(told);
    Ok(Configs::of(data).keep(&node.name, &node.text, by, floor, |number| encode(node, number))?)
}

fn token_file(arguments: &TokenArguments, folder: &Path, name: &NodeName) -> PathBuf {
    arguments.token_file.clone().unwrap_or_else(|| folder.join(format!("{name}.token")))
}

/// The settings image, with the token of the file; new credentials where it is not there.
fn settings(data: &Path, node: &NodeFile, token_file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut credentials = Credentials::open(data)?;
    let text = match std::fs::read_to_string(token_file) {
        Ok(text) => {
            let token = text.trim().to_owned();
            anyhow::ensure!(
                credentials.check(&node.name, token.as_bytes()),
                "the token in {} is not the one that \"{}\" has here; if it shall get a new one: tianyu node revoke {}, and \
                 remove the file",
                token_file.display(),
                node.name,
                node.name
            );
            token
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let token = credentials.add(&node.name).with_context(|| {
                format!(
                    "make credentials (name the file with its token with --token-file; {} is not there)",
                    token_file.display()
                )
            })?;
            write_private(token_file, token.as_bytes())?;
            println!("token     {} (keep it private; it is not kept elsewhere)", token_file.display());
            tell(data)?;
            token
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", token_file.display())),
    };
    let token = unhex(&text).with_context(|| format!("{} holds no token: 40 hex digits", token_file.display()))?;
    let settings = node.settings(token, credentials.key(&node.name));
    let mut image = vec![0; SETTINGS_BYTES_MAX];
    let length = settings.encode(&mut image).context("encode the settings")?;
    image.truncate(length);
    Ok(image)
}

/// Writes a file that only its owner may read, in the place of one that is there.
fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn image(data: &Path, node: &NodeFile, out: &Path, token: &TokenArguments, by: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let settings = settings(data, node, &token_file(token, out, &node.name))?;
    let (number, digest, config) = keep(data, node, by)?;
    let config_path = out.join(format!("{}.config.cbor", node.name));
    std::fs::write(&config_path, &config).with_context(|| format!("write {}", config_path.display()))?;
    let settings_path = out.join(format!("{}.settings.cbor", node.name));
    write_private(&settings_path, &settings)?;
    println!("config    {} ({} bytes, number {number}, digest {digest:08x})", config_path.display(), config.len());
    println!("settings  {} ({} bytes, private: it holds token and key)", settings_path.display(), settings.len());
    if let Some(room) = room::ring(&node.board, &node.config) {
        println!("flash     {room}");
    }
    Ok(())
}

fn flash(board: &Board, images: &Path, run: bool, to: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let tool = &board.tool;
    let image = images.join(&tool.image);
    let fill = |text: &str| text.replace("{image}", &image.display().to_string());
    println!("# {}: {}", board.title, status(board));
    if !tool.hint.is_empty() {
        println!("# {}", fill(&tool.hint));
    }
    let there = || match image.is_file() {
        true => Ok(()),
        false => Err(anyhow::anyhow!("{} is not there; name its folder with --images", image.display())),
    };
    match tool.kind {
        ToolKind::None => {
            println!("# nothing to flash");
            Ok(ExitCode::SUCCESS)
        }
        ToolKind::Uf2 => {
            let drive = to.or_else(|| drive(&tool.volume));
            let shown =
                drive.as_ref().map_or_else(|| format!("THE DRIVE {}", tool.volume), |it| it.display().to_string());
            println!("cp {} {shown}/", image.display());
            if run {
                there()?;
                let drive = drive.with_context(|| {
                    format!("the drive {} is not there: {}, or name it with --to", tool.volume, tool.hint)
                })?;
                let target = drive.join(&tool.image);
                std::fs::copy(&image, &target).with_context(|| format!("copy to {}", target.display()))?;
                println!("copied");
            }
            Ok(ExitCode::SUCCESS)
        }
        ToolKind::Command => {
            let partitions = images.join(format!("{}.partitions.csv", board.name));
            let words =
                tool.flash.iter().map(|word| fill(word).replace("{partitions}", &partitions.display().to_string()));
            let words: Vec<_> = words.collect();
            if !tool.partitions.is_empty() {
                std::fs::write(&partitions, tool.partitions.trim_start())
                    .with_context(|| format!("write {}", partitions.display()))?;
            }
            println!("{}", words.join(" "));
            let Some((program, arguments)) = words.split_first().filter(|_| run) else { return Ok(ExitCode::SUCCESS) };
            there()?;
            let status = match std::process::Command::new(program).args(arguments).status() {
                Ok(status) => status,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    anyhow::bail!("{program} is not installed: cargo install {program}")
                }
                Err(error) => return Err(error).with_context(|| format!("run {program}")),
            };
            anyhow::ensure!(status.success(), "{program} ended with {status}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Where a drive of this name is mounted.
fn drive(volume: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let of_linux = mounts.lines().filter_map(|line| line.split_whitespace().nth(1)).map(PathBuf::from);
    let of_mac = std::iter::once(Path::new("/Volumes").join(volume));
    of_linux.chain(of_mac).find(|path| path.file_name().is_some_and(|name| name == volume) && path.is_dir())
}

/// Gives a node a config through the gateway that runs.
pub(super) fn push(data: &Path, node: &NodeFile, wait_s: u64, by: &str) -> anyhow::Result<ExitCode> {
    let (number, digest, _) = keep(data, node, by)?;
    let channels = node.channels.iter().map(|it| it.property.id()).collect();
    let configs = Configs::of(data);
    let state = || -> anyhow::Result<_> {
        let all = configs.versions(&node.name)?;
        all.into_iter().find(|it| it.number == number).context("the config is kept no more")
    };
    if state()?.state == What::Taken {
        println!("\"{}\" runs config {number} ({digest:08x}) already", node.name);
        return Ok(ExitCode::SUCCESS);
    }
    let request = Request::ConfigPush { node: node.name.to_string(), number, channels, by: by.to_owned() };
    println!("{}", order(data, &request)?);
    let until = Instant::now() + Duration::from_secs(wait_s);
    loop {
        let now = state()?;
        match now.state {
            What::Taken => {
                println!("\"{}\" runs config {number} ({digest:08x}), on trial until it has proved itself", node.name);
                return Ok(ExitCode::SUCCESS);
            }
            What::GivenUp => anyhow::bail!("\"{}\" has given config {number} up: {}", node.name, now.why),
            What::Superseded => anyhow::bail!("a newer config goes to \"{}\" in its place", node.name),
            _ => {}
        }
        if Instant::now() >= until {
            let so_far = super::node::state(now.state, &now.since, &now.why);
            anyhow::bail!(
                "\"{}\" has not taken config {number} within {wait_s} s ({so_far}); it goes on by itself, see: tianyu node \
                 configs {}",
                node.name,
                node.name
            );
        }
        std::thread::sleep(LOOK);
    }
}
