//! An emulated board as QEMU runs it: its image, its flash, its lines with what hangs on them.
//!
//! ```text
//! console ◀─ UART 0 ┐                ┌ UART 1, 2 ─▶ Modbus lines of a Scene
//!                   ├─ QEMU, an image ┤
//! temperature, cable ◀─ QMP ┘        └ UART 3 ────▶ tunnel: pins, buses, counters of a Scene
//! ```
//! QEMU connects to sockets that are there as long as the board is, so a killed and restarted QEMU
//! finds everything as it was. The flash is a file; what a kill leaves in it, the next start finds.

mod console;
mod flash;
mod pond;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use emulation::control::Phase;
use sensors::modbus::LineSettings;
use serde_json::{Value, json};
use simulator::serial_line::{SerialLine, Slave};
use simulator::tunnel::{Moment, Peripherals, Tunnel};
use simulator::world::World;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::process::Process;
use console::Console;
pub use flash::{FlashFile, FlashStats};
pub use pond::{Pond, Tank, config_image};

/// Longest that QEMU may take to answer or to connect.
const QEMU_WITHIN: Duration = Duration::from_secs(20);
/// Bytes read from a socket at once.
const CHUNK: usize = 4_096;

/// What stands around a board.
pub struct Scene {
    /// What is true there.
    pub world: Box<dyn World>,
    /// Who is on each Modbus line.
    pub lines: [Vec<Box<dyn Slave + Send>>; 2],
    /// What is at its pins and buses.
    pub peripherals: Box<dyn Peripherals + Send>,
}

/// A scene and how far it has come.
struct Stage {
    scene: Scene,
    stepped_us: u64,
    /// The tunnel hears questions and answers none.
    tunnel_is_mute: bool,
}

/// Builds a program of a board's folder, as it is released; the path of its image.
///
/// # Errors
/// When it does not build.
pub fn image(board: &str, program: &str) -> Result<PathBuf> {
    build(board, program, &[])
}

/// As [`image`], with features, beside the plain one so that neither is built again for the other.
///
/// # Errors
/// When it does not build.
pub fn image_with(board: &str, program: &str, features: &str) -> Result<PathBuf> {
    let beside = format!("../../../target/boards-{features}");
    build(board, program, &["--features", features, "--target-dir", &beside])
}

fn build(board: &str, program: &str, more: &[&str]) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware/boards").join(board);
    // From its own folder: that is where its target and linker script are named.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--release", "--message-format=json", "--bin", program])
        .args(more)
        .current_dir(&folder)
        .output()
        .context("run Cargo")?;
    ensure!(built.status.success(), "{program} of {board}: {}", String::from_utf8_lossy(&built.stderr));
    let messages = String::from_utf8(built.stdout).context("messages of Cargo")?;
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let image = messages.find_map(|message| {
        (message["target"]["name"] == program).then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    image.with_context(|| format!("{program} of {board} has no image"))
}

/// How a board is started.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Its network has IPv4; the host is then 10.0.2.2.
    pub ipv4: bool,
    /// Its network has IPv6; the host is then fec0::2.
    pub ipv6: bool,
    /// Where its clock begins, µs.
    pub start_us: u64,
    /// Settings of its Modbus lines, for the times that characters take.
    pub line: LineSettings,
}

impl Default for Options {
    fn default() -> Self {
        Self { ipv4: true, ipv6: true, start_us: 0, line: LineSettings::DEFAULT }
    }
}

/// A board; it is killed when dropped, and its sockets go.
pub struct Board {
    qemu: PathBuf,
    image: PathBuf,
    options: Options,
    flash: Arc<FlashFile>,
    process: Option<Process>,
    console: Arc<Console>,
    qmp: UnixListener,
    control: Option<BufReader<UnixStream>>,
    stage: Arc<Mutex<Stage>>,
    began: Instant,
    _tasks: JoinSet<()>,
    // Below the process, so that it is removed after the process has ended.
    directory: TempDir,
}

impl Board {
    /// A board with this image and a new flash, that is not on yet.
    ///
    /// # Errors
    /// When its sockets or its flash cannot be made.
    pub fn new(qemu: &Path, image: &Path, options: Options, scene: Scene) -> Result<Self> {
        let directory = tempfile::tempdir().context("directory of a board")?;
        let flash = Arc::new(FlashFile::create(&directory.path().join("flash"))?);
        let listen = |name: &str| {
            let path = directory.path().join(name);
            UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))
        };
        let console = Arc::new(Console::default());
        let stage = Arc::new(Mutex::new(Stage { scene, stepped_us: 0, tunnel_is_mute: false }));
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        tasks.spawn(console::serve(listen("uart0")?, console.clone()));
        tasks.spawn(console::serve_port(listen("port")?, console.clone()));
        for (line, name) in ["uart1", "uart2"].into_iter().enumerate() {
            tasks.spawn(serve_line(listen(name)?, stage.clone(), line, options.line, began));
        }
        tasks.spawn(serve_tunnel(listen("uart3")?, stage.clone(), began));
        Ok(Self {
            qemu: qemu.to_owned(),
            image: image.to_owned(),
            options,
            flash,
            process: None,
            console,
            qmp: listen("qmp")?,
            control: None,
            stage,
            began,
            _tasks: tasks,
            directory,
        })
    }

    /// Switches the board on, with fresh chance.
    ///
    /// # Errors
    /// When it is on already, or QEMU does not start.
    pub async fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the board is on already");
        self.flash.prepare(self.options.start_us)?;
        self.console.begin();
        self.process = Some(Process::start(&self.qemu, &self.arguments(), &[], self.directory.path())?);
        self.connect_control().await.with_context(|| {
            let lines = self.process.as_ref().map(Process::lines).unwrap_or_default();
            format!("QEMU does not connect: {}", lines.join("\n"))
        })
    }

    /// Kills QEMU with SIGKILL: the power is gone.
    ///
    /// # Errors
    /// When the board is not on.
    pub fn kill(&mut self) -> Result<()> {
        self.control = None;
        self.process.take().context("the board is off")?.kill()
    }

    /// Kills QEMU once the flash is in this phase, and `late` after it has come into it; the phase
    /// that the flash was in when the power went.
    ///
    /// # Errors
    /// When the flash was not in that phase within `within`.
    pub async fn kill_in(&mut self, phase: Phase, late: Duration, within: Duration) -> Result<Phase> {
        self.kill_after(late, move |flash| flash.watch(phase, within)).await
    }

    /// Kills QEMU in the first erasure, or in a program once `programs` more have ended, whichever is
    /// first, and `late` after that has begun; the phase that the flash was in when the power went.
    ///
    /// # Errors
    /// When neither came within `within`.
    pub async fn kill_in_flash(&mut self, programs: u32, late: Duration, within: Duration) -> Result<Phase> {
        self.kill_after(late, move |flash| flash.watch_writes(programs, within)).await
    }

    async fn kill_after(
        &mut self,
        late: Duration,
        watch: impl FnOnce(&FlashFile) -> Result<()> + Send + 'static,
    ) -> Result<Phase> {
        let (mut process, flash) = (self.process.take().context("the board is off")?, self.flash.clone());
        self.control = None;
        let killing = tokio::task::spawn_blocking(move || {
            watch(&flash)?;
            let at = Instant::now() + late;
            while Instant::now() < at {
                std::thread::yield_now();
            }
            process.kill()?;
            flash.phase()
        });
        killing.await.context("the thread that kills")?
    }

    /// Switches it off and on again.
    ///
    /// # Errors
    /// When it is off, or does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.start().await
    }

    /// The next line of the console that contains `text`, waited for: after the last one that was
    /// asked for.
    ///
    /// # Errors
    /// When no such line came within `within`.
    pub async fn console_line(&self, text: &str, within: Duration) -> Result<String> {
        self.console.line(text, within).await
    }

    /// Types a line at the console.
    ///
    /// # Errors
    /// When the board is off.
    pub async fn type_line(&self, line: &str) -> Result<()> {
        self.console.send(format!("{line}\n").as_bytes()).await
    }

    /// Gives a command of the console's language for programs (CONSOLE.md); its data, and the line
    /// that ends its answer.
    ///
    /// # Errors
    /// When the board is off or does not answer.
    pub async fn ask(&self, command: &str, within: Duration) -> Result<(Vec<String>, String)> {
        self.type_line(command).await?;
        self.console.answered(within).await
    }

    /// The socket of its serial port, for a program such as `tianyu node provision`.
    #[must_use]
    pub fn port(&self) -> PathBuf {
        self.directory.path().join("port")
    }

    /// Its flash.
    #[must_use]
    pub fn flash(&self) -> &FlashFile {
        &self.flash
    }

    /// What the flash has done, and is doing.
    ///
    /// # Errors
    /// When its page cannot be read.
    pub fn flash_stats(&self) -> Result<FlashStats> {
        self.flash.stats()
    }

    /// Waits until the flash is in this phase.
    ///
    /// # Errors
    /// When it was not within `within`.
    pub async fn wait_for_phase(&self, phase: Phase, within: Duration) -> Result<()> {
        let flash = self.flash.clone();
        tokio::task::spawn_blocking(move || flash.watch(phase, within)).await.context("the thread that watches")?
    }

    /// Looks at what stands around the board, or changes it.
    pub fn scene<T>(&self, of: impl FnOnce(&mut Scene, u64) -> T) -> T {
        let now_us = micros(self.began);
        let mut stage = lock(&self.stage);
        stage.pass(now_us);
        of(&mut stage.scene, now_us)
    }

    /// Lets the tunnel answer no question, or answer again.
    pub fn mute_tunnel(&self, mute: bool) {
        lock(&self.stage).tunnel_is_mute = mute;
    }

    /// Sets what QEMU's TMP105 at address 0x48 feels, thousandths of a °C.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub async fn set_temperature(&mut self, milli_celsius: i32) -> Result<()> {
        let value = json!({"path": "/machine/peripheral/tmp105", "property": "temperature", "value": milli_celsius});
        self.control("qom-set", value).await.map(|_| ())
    }

    /// Plugs the network cable in, or pulls it out.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub async fn set_link(&mut self, up: bool) -> Result<()> {
        self.control("set_link", json!({"name": "net", "up": up})).await.map(|_| ())
    }

    /// Freezes the board, or lets it go on.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub async fn set_running(&mut self, runs: bool) -> Result<()> {
        self.control(if runs { "cont" } else { "stop" }, json!({})).await.map(|_| ())
    }

    /// QEMU's process, for its processor time and its end.
    ///
    /// # Errors
    /// When the board is off.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the board is off")
    }

    fn arguments(&self) -> Vec<OsString> {
        let folder = self.directory.path().display();
        let on_off = |on: bool| if on { "on" } else { "off" };
        let mut arguments = vec![
            "-machine".to_owned(),
            "mps2-an385,memory-backend=psram".to_owned(),
            "-object".to_owned(),
            format!("memory-backend-file,id=psram,size=16M,share=on,mem-path={}", self.flash.path().display()),
            "-display".to_owned(),
            "none".to_owned(),
            "-monitor".to_owned(),
            "none".to_owned(),
            "-device".to_owned(),
            "tmp105,id=tmp105,bus=i2c,address=0x48".to_owned(),
            "-nic".to_owned(),
            format!("user,id=net,model=lan9118,ipv4={},ipv6={}", on_off(self.options.ipv4), on_off(self.options.ipv6)),
            "-chardev".to_owned(),
            format!("socket,id=qmp,path={folder}/qmp"),
            "-mon".to_owned(),
            "chardev=qmp,mode=control".to_owned(),
        ];
        for uart in 0..4 {
            arguments.extend(["-chardev".to_owned(), format!("socket,id=uart{uart},path={folder}/uart{uart}")]);
            arguments.extend(["-serial".to_owned(), format!("chardev:uart{uart}")]);
        }
        let mut arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        arguments.extend(["-kernel".into(), self.image.clone().into()]);
        arguments
    }

    async fn connect_control(&mut self) -> Result<()> {
        let accepted = tokio::time::timeout(QEMU_WITHIN, self.qmp.accept()).await.context("QMP")?;
        let mut stream = BufReader::new(accepted.context("QMP")?.0);
        let mut greeting = String::new();
        stream.read_line(&mut greeting).await.context("QMP greeting")?;
        self.control = Some(stream);
        self.control("qmp_capabilities", json!({})).await.map(|_| ())
    }

    async fn control(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let stream = self.control.as_mut().context("the board is off")?;
        let question = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        let answer = async {
            stream.write_all(question.as_bytes()).await?;
            loop {
                let mut line = String::new();
                ensure!(stream.read_line(&mut line).await? > 0, "QEMU has ended");
                let answer: Value = serde_json::from_str(&line)?;
                // Events come in between.
                if let Some(value) = answer.get("return") {
                    return Ok(value.clone());
                }
                if let Some(error) = answer.get("error") {
                    bail!("QEMU refuses {command}: {error}");
                }
            }
        };
        tokio::time::timeout(QEMU_WITHIN, answer).await.with_context(|| format!("QEMU on {command}"))?
    }
}

impl Stage {
    fn pass(&mut self, now_us: u64) {
        let by_us = now_us.saturating_sub(self.stepped_us);
        if by_us > 0 {
            self.stepped_us = now_us;
            let utc_ms = std::time::UNIX_EPOCH.elapsed().map_or(0, |it| it.as_millis() as i64);
            self.scene.world.step(utc_ms, by_us as f64 / 1e6);
        }
    }
}

fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(began: Instant) -> u64 {
    began.elapsed().as_micros() as u64
}

/// Serves a Modbus line for as long as the board is there; each connection is a start of QEMU.
async fn serve_line(
    listener: UnixListener,
    stage: Arc<Mutex<Stage>>,
    number: usize,
    settings: LineSettings,
    began: Instant,
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut line = SerialLine::new(settings);
        let mut bytes = [0; CHUNK];
        loop {
            let wake = began + Duration::from_micros(line.wake_us().min(u64::from(u32::MAX) << 20));
            // QEMU's end ends the connection; the next start makes a new one.
            let came = tokio::select! {
                read = stream.read(&mut bytes) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(count) => count,
                },
                () = tokio::time::sleep_until(wake.into()) => 0,
            };
            let now_us = micros(began);
            let due = {
                let mut stage = lock(&stage);
                stage.pass(now_us);
                let Scene { world, lines, .. } = &mut stage.scene;
                let truth = |property, depth_m| world.value(property, depth_m);
                let mut slaves: Vec<&mut dyn Slave> =
                    lines[number].iter_mut().map(|slave| &mut **slave as &mut dyn Slave).collect();
                if came > 0 {
                    line.on_bytes(&bytes[..came], now_us, &mut slaves, &truth);
                }
                line.poll(now_us, &mut slaves, &truth)
            };
            if stream.write_all(&due).await.is_err() {
                break;
            }
        }
    }
}

/// Serves the tunnel for as long as the board is there.
async fn serve_tunnel(listener: UnixListener, stage: Arc<Mutex<Stage>>, began: Instant) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut tunnel = Tunnel::new();
        let mut bytes = [0; CHUNK];
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            let now_us = micros(began);
            let answers = {
                let mut stage = lock(&stage);
                stage.pass(now_us);
                let Scene { world, peripherals, .. } = &mut stage.scene;
                let at = &mut Moment { now_us, world: &mut **world };
                let answers = tunnel.on_bytes(&bytes[..count], at, &mut **peripherals);
                if stage.tunnel_is_mute { Vec::new() } else { answers }
            };
            if stream.write_all(&answers).await.is_err() {
                break;
            }
        }
    }
}
