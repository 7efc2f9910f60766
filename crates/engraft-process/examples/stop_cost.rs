//! What stopping a process costs: `cargo run --release --example stop_cost -- PID`.

use std::time::{Duration, Instant};

use engraft_process::{Process, StackScan, StackWalk, WalkContext};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pid = std::env::args()
        .nth(1)
        .ok_or("usage: stop_cost PID")?
        .parse()?;
    let process = Process::open(pid)?;
    process.prepare_calls();
    let ranges = process.modules()?.program().map(|module| module.range());
    let entry = ranges
        .map(|range| range.start.range(64))
        .ok_or("no program")?;
    let start = Instant::now();
    let context = WalkContext::prepare(&process)?;
    println!("walks prepared in {} us", start.elapsed().as_micros());
    println!("threads  stop  maps  scan of all  walk of all  system call  detach (us)");
    for _ in 0..9 {
        let start = Instant::now();
        let mut stopped = process.stop(Duration::from_secs(5))?;
        let stop = start.elapsed();
        let maps = process.maps()?;
        let mapped = start.elapsed();
        let scan = StackScan::new(&process, &maps, std::slice::from_ref(&entry));
        let threads: Vec<_> = stopped.threads().collect();
        let verdicts: Vec<_> = threads.iter().map(|thread| scan.check(thread)).collect();
        let scanned = start.elapsed();
        let walk = StackWalk::new(&process, &maps, &context);
        let known = |thread| walk.walk(thread).map_or(0, |frames| frames.len());
        let frames: usize = threads.iter().map(known).sum();
        let walked = start.elapsed();
        let mut thread = stopped.calling_thread().ok_or("no thread")?;
        thread.system_call(39, [0; 6])?;
        let called = start.elapsed();
        stopped.detach()?;
        let end = start.elapsed();
        let times = [
            stop,
            mapped - stop,
            scanned - mapped,
            walked - scanned,
            called - walked,
            end - called,
        ];
        let times: Vec<_> = times
            .iter()
            .map(|time| time.as_micros().to_string())
            .collect();
        println!("{} {} ({frames} frames)", verdicts.len(), times.join(" "));
    }
    Ok(())
}
