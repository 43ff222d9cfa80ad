//! `run` at a terminal, alone and under a shell with job control.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use leasehold_testkit::{bin, eventually};
use rustix::process::{Pid, Signal, ioctl_tiocsctty, kill_process, setsid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::support::{SOON, Scene, UNTIL_EOF, end, wait_dead};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";

/// Tells that it runs, and then repeats what is typed. Its own text does not say what it prints.
const REPEAT: &str = "echo rea''dy; exec cat";

const PROMPT: &str = "what now? ";

/// A terminal with a program in it that leads its session.
pub(crate) struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    child: Child,
}

/// Starts a program that leads a terminal's session. The terminal hangs up when what is returned is dropped.
#[expect(unsafe_code, reason = "what is to happen between fork and exec has no safe interface")]
fn start(mut command: Command) -> Result<(File, Child)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    tcsetwinsize(&ours, Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 })?;
    let name = ptsname(&ours, Vec::new())?.into_string()?;
    let theirs = OpenOptions::new().read(true).write(true).open(name)?;
    command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
    // SAFETY: between fork and exec the closure makes two system calls and nothing else.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            Ok(ioctl_tiocsctty(rustix::stdio::stdin())?)
        });
    }
    // It keeps this side's copies of the other end open until it is dropped.
    Ok((File::from(ours), command.spawn()?))
}

impl Terminal {
    pub(crate) fn start(command: Command) -> Result<Self> {
        let (keyboard, child) = start(command)?;
        let mut output = keyboard.try_clone()?;
        let screen = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                written.lock().expect("no reader panics").push_str(&text);
            }
        });
        Ok(Self { keyboard, screen, child })
    }

    /// `run job` with a shell script.
    fn run(scene: &Scene, script: &str) -> Result<Self> {
        let mut command = Command::new(bin("kubectl-leasehold")?);
        command.env("KUBECONFIG", scene.kubeconfig()).args(["run", "job", "--", "/bin/sh", "-c", script]);
        Self::start(command)
    }

    /// A shell with job control.
    fn shell(scene: &Scene) -> Result<Self> {
        let program = bin("kubectl-leasehold")?;
        let mut command = Command::new("/bin/sh");
        command.env("KUBECONFIG", scene.kubeconfig()).env("LEASEHOLD", program).env("PS1", PROMPT).env_remove("ENV");
        command.arg("-i");
        Self::start(command)
    }

    pub(crate) fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keyboard.write_all(keys.as_bytes())?)
    }

    /// Waits until a text has been written that many times in all.
    pub(crate) async fn shows(&self, text: &str, times: usize) -> Result<()> {
        eventually(SOON, "a text on the terminal", async || {
            let screen = self.screen.lock().expect("no reader panics").clone();
            ensure!(screen.matches(text).count() >= times, "{times} times {text:?} in {screen}");
            Ok(())
        })
        .await
    }

    /// Types a line, and waits until it has been repeated.
    async fn is_repeated(&mut self, word: &str) -> Result<()> {
        self.press(&format!("{word}\n"))?;
        self.shows(word, 2).await
    }

    /// What was written so far.
    pub(crate) fn text(&self) -> String {
        self.screen.lock().expect("no reader panics").clone()
    }

    /// Whether it takes lines and repeats what is typed, as terminals do that no program has changed.
    pub(crate) fn takes_lines(&self) -> Result<bool> {
        Ok(tcgetattr(&self.keyboard)?.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG))
    }

    /// Makes it such a terminal again, as a shell does that gets it back.
    pub(crate) fn take_lines(&self) -> Result<()> {
        let mut modes = tcgetattr(&self.keyboard)?;
        modes.local_modes |= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        Ok(tcsetattr(&self.keyboard, OptionalActions::Now, &modes)?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        Ok(tcsetwinsize(&self.keyboard, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    pub(crate) async fn exit_code(&mut self) -> Result<Option<i32>> {
        let status =
            eventually(SOON, "the end of the program", async || self.child.try_wait()?.context("it runs")).await?;
        Ok(status.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_command_has_the_terminal() -> Result<()> {
    let scene = Scene::new().await?;
    let mut terminal = Terminal::run(&scene, REPEAT)?;
    terminal.shows("ready", 1).await?;
    terminal.is_repeated("hello").await?;
    terminal.press(CTRL_C)?;
    assert_eq!(terminal.exit_code().await?, Some(130));
    Ok(())
}

#[tokio::test]
async fn who_waits_at_a_terminal_is_told_whenever_something_changes() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    let second = scene.script(&["job"], UNTIL_EOF)?.env("POD_NAME", "second").piped_stdin();
    let mut second = second.start()?;
    scene.wait_joins("job", 1).await?;
    let mut terminal = Terminal::run(&scene, "echo mi''ne")?;
    terminal.shows("waiting for lock job, held by worker since 20", 1).await?;
    terminal.shows(", 1 ahead", 1).await?;
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    second.wait_for_line(SOON, |line| line == "ready").await?;
    terminal.shows("waiting for lock job, held by second since 20", 1).await?;
    terminal.shows(", 0 ahead", 1).await?;
    drop(second.stdin());
    end(&mut second).await?.is(0, &[]);
    terminal.shows("mine", 1).await?;
    assert_eq!(terminal.exit_code().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn ctrl_z_does_not_hang_a_run_that_nobody_could_continue() -> Result<()> {
    let scene = Scene::new().await?;
    let mut terminal = Terminal::run(&scene, REPEAT)?;
    terminal.shows("ready", 1).await?;
    terminal.press(CTRL_Z)?;
    terminal.is_repeated("hello").await?;
    terminal.press(CTRL_D)?;
    assert_eq!(terminal.exit_code().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn a_shell_can_stop_and_continue_it() -> Result<()> {
    let scene = Scene::new().await?;
    let mut shell = Terminal::shell(&scene)?;
    shell.press(&format!("$LEASEHOLD run job -- /bin/sh -c \"{REPEAT}\"\n"))?;
    shell.shows("ready", 1).await?;
    shell.is_repeated("one").await?;
    shell.press(CTRL_Z)?;
    shell.shows("Stopped", 1).await?;
    // The shell has the terminal again.
    shell.press("echo shell=$((6 * 7))\n")?;
    shell.shows("shell=42", 1).await?;
    shell.press("fg\n")?;
    shell.is_repeated("two").await?;
    shell.press(CTRL_D)?;
    shell.shows(PROMPT, 4).await?;
    shell.press("echo code=$?.\n")?;
    shell.shows("code=0.", 1).await?;
    Ok(())
}

#[tokio::test]
async fn ctrl_c_under_a_shell_ends_the_command_and_not_the_shell() -> Result<()> {
    let scene = Scene::new().await?;
    let mut shell = Terminal::shell(&scene)?;
    shell.press(&format!("$LEASEHOLD run job -- /bin/sh -c \"{REPEAT}\"\n"))?;
    shell.shows("ready", 1).await?;
    shell.press(CTRL_C)?;
    shell.shows(PROMPT, 2).await?;
    shell.press("echo code=$?.\n")?;
    shell.shows("code=130.", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_command_that_was_stopped_until_its_lock_was_lost_is_not_continued() -> Result<()> {
    let scene = Scene::new().await?;
    let mut shell = Terminal::shell(&scene)?;
    shell.press(&format!("$LEASEHOLD run job --lease-duration 2s -- /bin/sh -c \"{REPEAT}\"\n"))?;
    shell.shows("ready", 1).await?;
    shell.press(CTRL_Z)?;
    shell.shows("Stopped", 1).await?;
    // Somebody else gets the lock, so it is lost.
    scene.outcome(&["run", "job", "--", "true"]).await?.is(0, &[]);
    shell.press("fg\n")?;
    shell.shows("not renewed in time", 1).await?;
    shell.shows(PROMPT, 3).await?;
    shell.press("echo code=$?.\n")?;
    shell.shows("code=76.", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_command_in_a_pipeline_gets_the_terminal_when_it_reads_from_it() -> Result<()> {
    let scene = Scene::new().await?;
    let mut shell = Terminal::shell(&scene)?;
    let script = "echo rea''dy; read word < /dev/tty; echo got=\\$word";
    shell.press(&format!("$LEASEHOLD run job -- /bin/sh -c \"{script}\" | cat; echo end''ed\n"))?;
    shell.shows("ready", 1).await?;
    shell.press("water\n")?;
    shell.shows("got=water", 1).await?;
    shell.shows("ended", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_terminal_that_is_closed_ends_the_command_and_frees_the_lock() -> Result<()> {
    let scene = Scene::new().await?;
    let script = "trap 'exit 9' HUP; echo pid=$$.; while :; do sleep 0.05; done";
    let mut command = Command::new(bin("kubectl-leasehold")?);
    command.env("KUBECONFIG", scene.kubeconfig()).args(["run", "job", "--", "/bin/sh", "-c", script]);
    let (mut terminal, mut child) = start(command)?;
    let (mut screen, mut bytes) = (String::new(), [0; 256]);
    while !screen.contains("pid=") || !screen.contains('.') {
        let count = terminal.read(&mut bytes)?;
        screen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    let pid: u32 = screen.split(['=', '.']).nth(1).context("a number")?.parse()?;
    drop(terminal);
    let status = eventually(SOON, "the end of the program", async || child.try_wait()?.context("it runs")).await?;
    assert_eq!(status.code(), Some(9));
    wait_dead(pid).await?;
    assert!(scene.lease("job").await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_terminal_that_is_closed_ends_the_wait_and_leaves_the_queue() -> Result<()> {
    let scene = Scene::new().await?;
    let mut holder = scene.holder("job", &[]).await?;
    let mut command = Command::new(bin("kubectl-leasehold")?);
    command.env("KUBECONFIG", scene.kubeconfig()).args(["run", "job", "--", "true"]);
    let (terminal, mut child) = start(command)?;
    scene.wait_joins("job", 1).await?;
    drop(terminal);
    let status = eventually(SOON, "the end of the program", async || child.try_wait()?.context("it runs")).await?;
    assert_eq!(status.code(), Some(129));
    assert_eq!(scene.joins("job").await?, [] as [String; 0]);
    drop(holder.stdin());
    end(&mut holder).await?.is(0, &[]);
    Ok(())
}

#[tokio::test]
async fn a_command_hears_of_another_size_of_its_terminal() -> Result<()> {
    let scene = Scene::new().await?;
    // One that comes to `run` alone is nothing to it.
    let script = "trap 'stty size' WINCH; kill -WINCH $PPID; echo rea''dy; while :; do sleep 0.05; done";
    let mut terminal = Terminal::run(&scene, script)?;
    terminal.shows("ready", 1).await?;
    let size = Winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal.keyboard, size)?;
    terminal.shows("33 101", 1).await?;
    terminal.press(CTRL_C)?;
    assert_eq!(terminal.exit_code().await?, Some(130));
    Ok(())
}
