//! How long threads of a program are stopped while all of them are, one call with one
//! request is made, and all are detached: `cargo run --release --example pause [RUNS]`.
//!
//! Two programs are measured, each with its own longest pause: one that is busy, and one that
//! sleeps 1 ms at a time. `plain` stops all threads and then does everything; `prepared` does
//! before what can be done before. `nothing` is what the machine itself does to the program in the
//! same time.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use engraft_process::{
    Maps, Process, REQUEST_LENGTH, RemoteCall, Requests, Seen, StackScan, TargetAddress,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(5);
const THREADS: [u32; 4] = [1, 10, 100, 500];
const CODE_SIZE: u64 = 4096;
const STACK: u64 = 64 << 10;
const REQUEST: u64 = 0x100;
/// Read and write, private and anonymous.
const MAPPING: [u64; 3] = [3, 0x22, u64::MAX];

struct Victim {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Victim {
    fn start(program: &Path, what: &str, sleepers: u32) -> Result<Self> {
        let mut command = Command::new(program);
        command.args([what, &sleepers.to_string()]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut victim = Self {
            child,
            input,
            output,
        };
        victim.line()?;
        Ok(victim)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn process(&self) -> Result<Process> {
        Ok(Process::open(self.child.id().try_into()?)?)
    }

    /// The longest pause, in us, while `act` is done.
    fn measure(&mut self, act: impl FnOnce() -> Result<()>) -> Result<f64> {
        writeln!(self.input, "window")?;
        self.line()?;
        std::thread::sleep(Duration::from_millis(3));
        act()?;
        std::thread::sleep(Duration::from_millis(3));
        writeln!(self.input, "end")?;
        Ok(self.line()?.parse::<f64>()? / 1e3)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A function in the target that makes a request.
struct Agent {
    process: Process,
    base: TargetAddress,
}

impl Agent {
    fn inject(process: Process) -> Result<Self> {
        let [protection, flags, descriptor] = MAPPING;
        let arguments = [0, CODE_SIZE + STACK, protection, flags, descriptor, 0];
        let mut stopped = process.stop(PATIENCE)?;
        let mut thread = stopped.calling_thread().ok_or("no thread")?;
        let base = thread.system_call(libc::SYS_mmap, arguments)?.into();
        thread.system_call(libc::SYS_mprotect, [base_of(base), CODE_SIZE, 5, 0, 0, 0])?;
        // mov %rax,%rbx; mov $15,%eax; syscall
        let restorer = [0x48, 0x89, 0xc3, 0xb8, 15, 0, 0, 0, 0x0f, 0x05];
        stopped.write_protected(base, &restorer)?;
        // mov %rdi,%rsi; mov $-1,%edi; mov $REQUEST_LENGTH,%rdx; xor %eax,%eax; syscall
        let mut request = vec![0x48, 0x89, 0xfe, 0xbf, 0xff, 0xff, 0xff, 0xff, 0x48, 0xba];
        request.extend(REQUEST_LENGTH.to_le_bytes());
        // mov (%rsi),%rax; ret
        request.extend([0x31, 0xc0, 0x0f, 0x05, 0x48, 0x8b, 0x06, 0xc3]);
        stopped.write_protected(base + REQUEST, &request)?;
        stopped.detach()?;
        Ok(Self { process, base })
    }

    fn record(&self) -> TargetAddress {
        self.base + CODE_SIZE
    }

    fn call(&self) -> RemoteCall {
        RemoteCall {
            entry: self.base + REQUEST,
            arguments: [self.record().get(), 0, 0, 0, 0, 0],
            stack_top: self.base + CODE_SIZE + STACK,
            restorer: self.base,
            timeout: PATIENCE,
            only_loader_calls: true,
        }
    }

    fn call_in(&self, mut thread: engraft_process::StoppedThread<'_>) -> Result<()> {
        let writer = thread.protected_writer();
        let mut serve = |record, _| {
            // A patch site, as it were, and the word that it has been written.
            writer.write(self.base + 0x800, &[0xe9, 1, 2, 3, 4])?;
            self.process.memory().write(record, &1_u64.to_le_bytes())?;
            Ok(Seen::Request)
        };
        let mut requests = Requests {
            watched: None,
            serve: &mut serve,
        };
        let answer = thread.call_serving(&self.call(), &mut requests)?;
        (answer == 1).then_some(()).ok_or("not served")?;
        Ok(self
            .process
            .memory()
            .write(self.record(), &0_u64.to_le_bytes())?)
    }

    fn plain(&self) -> Result<()> {
        let mut stopped = self.process.stop(PATIENCE)?;
        self.call_in(stopped.calling_thread().ok_or("no thread")?)?;
        Ok(stopped.detach()?)
    }

    fn prepared(&self) -> Result<()> {
        let seized = self.process.seize(PATIENCE)?;
        let mut partly = seized.stop_sleepers(PATIENCE)?;
        partly.prepare_call(&self.call())?;
        let mut stopped = partly.stop_rest(PATIENCE)?;
        self.call_in(stopped.calling_thread().ok_or("no thread")?)?;
        Ok(stopped.detach()?)
    }
}

fn base_of(address: TargetAddress) -> u64 {
    address.get()
}

/// What one look at one sleeping thread costs us.
fn look(process: &Process, maps: &Maps) -> Result<f64> {
    let tids = process.threads()?;
    let last = tids.last().copied().ok_or("no threads")?;
    let entry = TargetAddress::new(0x1000)..TargetAddress::new(0x1040);
    let scan = StackScan::new(process, maps, &[entry]);
    let start = Instant::now();
    let stopped = process.stop_threads(&[last], PATIENCE)?;
    let verdicts: Vec<_> = stopped
        .threads()
        .map(|thread| scan.check(&thread))
        .collect();
    stopped.detach()?;
    (verdicts.len() == 1).then_some(()).ok_or("nothing seen")?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

fn show(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    let last = times.len().saturating_sub(1);
    format!("{:7.0} ({:.0}-{:.0})", at(times.len() / 2), at(0), at(last))
}

fn compile(directory: &Path) -> Result<PathBuf> {
    let program = directory.join("pause");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims/pause.c");
    let status = Command::new("gcc")
        .args(["-O2", "-pthread", "-o"])
        .args([&program, &source])
        .status()?;
    status.success().then_some(()).ok_or("gcc failed")?;
    Ok(program)
}

fn main() -> Result<()> {
    let runs = std::env::args()
        .nth(1)
        .map_or(Ok(15), |runs| runs.parse())?;
    let directory = tempfile::tempdir()?;
    let program = compile(directory.path())?;
    println!("longest pause in us, median (range) of {runs} runs");
    println!("threads  program  nothing             plain               prepared");
    for what in ["busy", "timer"] {
        for threads in THREADS {
            let mut victim = Victim::start(&program, what, threads - 1)?;
            let agent = Agent::inject(victim.process()?)?;
            let (mut nothing, mut plain, mut prepared) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..runs {
                let length = Duration::from_micros(500 + 25 * u64::from(threads));
                nothing.push(victim.measure(|| {
                    std::thread::sleep(length);
                    Ok(())
                })?);
                plain.push(victim.measure(|| agent.plain())?);
                prepared.push(victim.measure(|| agent.prepared())?);
            }
            let columns = [&mut nothing, &mut plain, &mut prepared].map(|times| show(times));
            let [nothing, plain, prepared] = columns;
            println!("{threads:7}  {what:7}  {nothing:18}  {plain:18}  {prepared:18}");
        }
    }
    let victim = Victim::start(&program, "busy", 99)?;
    let (process, mut looks) = (victim.process()?, Vec::new());
    let maps = process.maps()?;
    for _ in 0..runs {
        looks.push(look(&process, &maps)?);
    }
    println!(
        "a look at one sleeping thread of 100: {} us",
        show(&mut looks)
    );
    Ok(())
}
