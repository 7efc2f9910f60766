//! The door on random stacks: the shipped dispatch decides for a thread that calls, jumps, returns,
//! is interrupted on both kinds of stack, leaves frames with longjmp and changes between
//! coroutines, while a controller opens a transition, looks again, and turns it round.
//!
//! Two properties: no thread ever has frames of two universes; and one that has left its outermost
//! replaced frame and calls from a frame that was there at the look has switched. Each control
//! breaks one rule and is noticed.
//!
//! `ENGRAFT_LONG_TESTS=1` makes it two million runs.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests may say so in one word"
)]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;

use engraft_core::dispatch::{
    ListedThread, SiteWords, ThreadSlot, ThreadTable, TransitionWords, dispatch,
};
use engraft_core::door::{Call, DEPTHS, Door};
use engraft_core::{PatchState, ThreadId};

const OLD: u64 = 1;
const NEW: u64 = 2;
const THREAD: ThreadId = ThreadId(0x7f00);

/// The thread's own stack, and where a heap has stacks of coroutines.
const OWN: Range<u64> = 0x10_0000..0x20_0000;
const HEAP: u64 = 0x8_0000;
/// Frames at least as large have an array that can be a stack.
const ARRAY: u64 = 0x1000;

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    None,
    /// The kernel is not asked whether the thread is on its alternate stack.
    NoQuestion,
    /// Any stack counts as the one that was walked.
    NoBounds,
    /// A call from anywhere above a depth passes, not only from exactly there.
    Above,
    /// Only calls from above a depth pass.
    Strictly,
    /// The walk stopped at the innermost replaced frame.
    BrokenWalk,
    /// What lies beyond code without unwind tables is not scanned.
    NoScan,
    /// After a walk that such code has ended, all of the thread's own stack counts as the stack
    /// that was walked.
    LooseBounds,
    /// Functions are taken for such that never end in a jump.
    NoJumps,
    /// What a call has closed or moved does not stay so.
    Forgetful,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    id: u64,
    cfa: u64,
    return_address: u64,
    /// The version of a patched function.
    version: Option<u64>,
    /// Whether the function may end in a jump.
    jumps: bool,
    /// No walk goes on from here: no unwind table describes the code.
    is_undescribed: bool,
    /// Where a signal has interrupted the thread: its stack pointer then.
    interrupted: Option<u64>,
    size: u64,
}

/// What runs on one stack; a handler on the alternate stack belongs to what it has interrupted.
#[derive(Debug)]
struct Context {
    frames: Vec<Frame>,
    top: u64,
    /// The frame that the stack is an array of.
    owner: Option<u64>,
}

impl Context {
    /// The stack pointer.
    fn at(&self) -> u64 {
        match self.frames.last() {
            Some(frame) => frame.cfa - 8 - frame.size,
            None => self.top,
        }
    }
}

/// The registers of a call.
struct Caller<'r> {
    run: &'r Run,
    stack_pointer: u64,
    return_address: u64,
}

impl Call for Caller<'_> {
    fn stack_pointer(&self) -> u64 {
        let depths = self.run.door.map(|door| door.depths);
        let below = depths.into_iter().flatten();
        let nearest = below.filter(|it| *it != 0 && *it <= self.stack_pointer);
        match self.run.control {
            Control::Above => nearest.max().unwrap_or(self.stack_pointer),
            _ => self.stack_pointer,
        }
    }

    fn return_address(&self) -> u64 {
        self.return_address
    }

    fn is_on_alternate_stack(&self) -> Option<bool> {
        Some(self.run.control != Control::NoQuestion && self.run.is_on_alternate())
    }
}

struct Run {
    control: Control,
    random: Cell<u64>,
    contexts: Vec<Context>,
    current: usize,
    alternate: Option<(Range<u64>, u64)>,
    next: u64,
    site: SiteWords,
    transition: TransitionWords,
    slots: [ThreadSlot; 1],
    open: bool,
    others: PatchState,
    door: Option<Door>,
    /// The frames that were there at the look, and where each would call from.
    walked: Vec<(u64, u64)>,
    /// Nothing has happened since the look but calls, returns and jumps on the walked stack.
    is_plain: bool,
    switches: usize,
}

impl Run {
    fn new(seed: u64, control: Control) -> Self {
        Self {
            control,
            random: Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            contexts: vec![Context {
                frames: Vec::new(),
                top: OWN.end,
                owner: None,
            }],
            current: 0,
            alternate: None,
            next: 1,
            site: SiteWords::default(),
            transition: TransitionWords::default(),
            slots: [ThreadSlot::default()],
            open: false,
            others: PatchState::Unpatched,
            door: None,
            walked: Vec::new(),
            is_plain: true,
            switches: 0,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 16) % bound
    }

    fn table(&self) -> ThreadTable<'_> {
        ThreadTable {
            transition: &self.transition,
            slots: &self.slots,
        }
    }

    fn here(&mut self) -> &mut Context {
        &mut self.contexts[self.current]
    }

    fn is_on_alternate(&self) -> bool {
        let at = self.contexts[self.current].at();
        let alternate = self.alternate.as_ref();
        alternate.is_some_and(|(range, _)| range.start <= at && at < range.end)
    }

    fn versions(&self) -> BTreeSet<u64> {
        let frames = self.contexts.iter().flat_map(|it| &it.frames);
        frames.filter_map(|frame| frame.version).collect()
    }

    /// Where the thread is.
    fn state(&self) -> PatchState {
        self.table().state(THREAD).unwrap_or(self.others)
    }

    /// What a patched function's entry leads to.
    fn enter(&mut self, cfa: u64, return_address: u64, is_jump: bool) -> u64 {
        if !self.open {
            return match self.others {
                PatchState::Unpatched => OLD,
                PatchState::Patched => NEW,
            };
        }
        let before = self.state();
        let must = !is_jump && self.must_switch(cfa, return_address);
        let call = Caller {
            run: self,
            stack_pointer: cfa,
            return_address,
        };
        let slots = || &self.slots[..];
        let version = dispatch(&self.site, &self.transition, slots, THREAD.0, &call);
        let has_switched = self.state() != before;
        self.switches += usize::from(has_switched);
        // From between depths the door has moved, and from below what was noted it has closed.
        let noted = |door: Door| door.low <= cfa && cfa <= door.depths[0];
        self.is_plain &= has_switched || self.door.is_none_or(noted);
        if self.control == Control::Forgetful
            && let Some(door) = self.door
        {
            self.table().set_door(THREAD, &door);
        }
        assert!(
            !must || self.state() == self.others,
            "comes from outside and has not switched"
        );
        version
    }

    /// Whether this call shows that the thread has left, by what is promised.
    fn must_switch(&self, cfa: u64, return_address: u64) -> bool {
        let Some(door) = self
            .door
            .filter(|_| self.is_plain && self.state() != self.others)
        else {
            return false;
        };
        let caller = self.contexts[self.current].frames.last();
        let was_there = caller.is_some_and(|it| self.walked.contains(&(it.id, cfa)));
        let noted = door.depths.contains(
            &(cfa
                + if self.control == Control::Strictly {
                    8
                } else {
                    0
                }),
        );
        was_there && noted && self.versions().is_empty() && return_address != door.return_to
    }

    fn call(&mut self, version: Option<bool>) {
        let pushed = [0, 0, 0, 8, 16][self.below(5) as usize];
        let caller = self.here().frames.last().map_or(0, |it| it.id);
        let cfa = self.here().at() - pushed;
        let return_address = caller * 16 + 1 + self.below(2);
        let version = version.map(|_| self.enter(cfa, return_address, false));
        let sizes = [16, 32, 64, 400, 0x4000];
        // An array has no room for another one.
        let has_room = self.current == 0 && !self.is_on_alternate();
        let size = sizes[match (version, has_room) {
            (Some(_), _) => self.below(3),
            (None, true) => self.below(5),
            (None, false) => self.below(4),
        } as usize];
        let (id, jumps) = (self.next, self.below(2) == 0);
        let is_undescribed = version.is_none() && self.below(4) == 0;
        self.next += 1;
        self.here().frames.push(Frame {
            id,
            cfa,
            return_address,
            version,
            jumps,
            is_undescribed,
            interrupted: None,
            size,
        });
        if size > ARRAY && self.below(2) == 0 {
            self.use_array(id, cfa - 8 - size + 0x40..cfa - 0x10);
        }
    }

    /// A frame's array becomes a stack.
    fn use_array(&mut self, owner: u64, array: Range<u64>) {
        if self.alternate.is_none() && self.below(2) == 0 {
            // Not where the thread is on its alternate stack.
            self.alternate = Some((array, owner));
        } else if self.contexts.len() < 3 {
            // Off by four, so that no call on it comes from exactly where a frame has been: that
            // cannot be told from a call by a new frame there (docs/transition.md has what
            // remains).
            self.contexts.push(Context {
                frames: Vec::new(),
                top: array.end - 4,
                owner: Some(owner),
            });
        }
    }

    /// The last call of a function is a jump.
    fn jump(&mut self, is_patched: bool) {
        let Some(frame) = self.here().frames.last().copied() else {
            return;
        };
        if !frame.jumps || frame.interrupted.is_some() || frame.size > ARRAY {
            return;
        }
        self.here().frames.pop();
        // It is the old function's call, whatever is on the stack.
        let version = is_patched.then(|| self.enter(frame.cfa, frame.return_address, true));
        assert!(
            version.is_none() || frame.version.is_none() || version == frame.version,
            "a body of one universe calls one of the other"
        );
        let id = self.next;
        self.next += 1;
        self.here().frames.push(Frame {
            id,
            version,
            is_undescribed: frame.is_undescribed && version.is_none(),
            ..frame
        });
    }

    fn push(&mut self, cfa: u64, size: u64, version: Option<u64>) {
        let id = self.next;
        self.next += 1;
        self.here().frames.push(Frame {
            id,
            cfa,
            return_address: 1,
            version,
            jumps: false,
            is_undescribed: false,
            interrupted: None,
            size,
        });
    }

    fn leave(&mut self) {
        if let Some(frame) = self.here().frames.pop() {
            self.forget(frame.id);
        }
    }

    /// A frame has ended, and with it what was on its array.
    fn forget(&mut self, id: u64) {
        self.contexts.retain(|it| it.owner != Some(id));
        if self.alternate.as_ref().is_some_and(|it| it.1 == id) {
            self.alternate = None;
        }
    }

    fn signal(&mut self) {
        self.is_plain = false;
        let at = self.here().at();
        let alternate = self.alternate.clone().filter(|_| !self.is_on_alternate());
        let top = match alternate {
            Some((range, _)) if self.below(3) > 0 => range.end,
            _ => at - 128,
        };
        let id = self.next;
        self.next += 1;
        self.here().frames.push(Frame {
            id,
            cfa: top,
            return_address: 8,
            version: None,
            jumps: false,
            is_undescribed: false,
            interrupted: Some(at),
            // Small, so that calls of handlers come from where frames have been.
            size: 16,
        });
    }

    /// Back to a frame further out, out of handlers too.
    fn long_jump(&mut self) {
        let count = self.here().frames.len() as u64;
        for _ in 0..self.below(count + 1) {
            self.leave();
        }
    }

    fn change_context(&mut self) {
        if self.is_on_alternate() {
            return;
        }
        self.is_plain = false;
        if self.contexts.len() < 3 && self.below(3) == 0 {
            self.contexts.push(Context {
                frames: Vec::new(),
                top: HEAP,
                owner: None,
            });
        }
        self.current = self.below(self.contexts.len() as u64) as usize;
    }

    /// What a controller sees: whether the thread is clear, and its door. What is suspended
    /// elsewhere is not seen by a walk; here something else has seen that it is there.
    fn look(&mut self, leaving: u64) -> Option<Option<Door>> {
        let is_old = |frame: &Frame| frame.version == Some(leaving);
        if !self.contexts.iter().flat_map(|it| &it.frames).any(is_old) {
            return None;
        }
        let here = &self.contexts[self.current];
        let mut others = self.contexts.iter().enumerate();
        if others.any(|(index, it)| index != self.current && it.frames.iter().any(is_old)) {
            return Some(None);
        }
        // The walk goes from the innermost frame to the first one that no table describes; what
        // lies beyond is scanned.
        let broken = here.frames.iter().rposition(|it| it.is_undescribed);
        let end = broken.map_or(0, |at| at + 1);
        let (beyond, walked) = here.frames.split_at(end);
        let is_own = match broken {
            None => self.current == 0,
            Some(_) => self.current == 0 || here.owner.is_some(),
        };
        let is_clear = self.control == Control::NoScan || !beyond.iter().any(is_old);
        if !is_own || !is_clear {
            return Some(None);
        }
        let mut frames = walked.iter();
        let outermost = match self.control {
            Control::BrokenWalk => frames.rposition(is_old),
            _ => frames.position(is_old),
        };
        let Some(outermost) = outermost else {
            return Some(None);
        };
        // From there outwards, up to what a signal has interrupted.
        let outwards = || walked[..=outermost].iter().rev();
        let depths = outwards().take_while(|it| it.interrupted.is_none());
        let on_own = walked[outermost];
        if !OWN.contains(&on_own.cfa) && on_own.cfa != OWN.end {
            return Some(None);
        }
        let raise = if self.control == Control::Strictly {
            8
        } else {
            0
        };
        let inwards = walked[outermost + 1..].iter();
        let innermost = inwards.take_while(|it| it.interrupted.is_none()).last();
        let innermost = innermost.unwrap_or(&on_own);
        let mut door = Door {
            own_stack: broken.map_or([0; 2], |_| [OWN.start, OWN.end]),
            low: match (self.control, broken) {
                (Control::NoBounds, _) => 1,
                (Control::LooseBounds, _) | (_, None) => OWN.start,
                (_, Some(_)) => innermost.cfa - 8 - innermost.size,
            },
            return_to: 0,
            depths: [0; DEPTHS],
        };
        for (to, from) in door.depths.iter_mut().zip(depths) {
            *to = from.cfa + raise;
        }
        let is_alternate = self.alternate.as_ref();
        if is_alternate.is_some_and(|(range, _)| range.contains(&on_own.cfa)) {
            // As for a handler's stack that is not the thread's own.
            return Some(None);
        }
        if on_own.jumps && self.control != Control::NoJumps {
            door.return_to = on_own.return_address;
        }
        self.walked = here.frames[..end + outermost]
            .iter()
            .zip(here.frames.iter().skip(1))
            .map(|(caller, called)| (caller.id, called.cfa))
            .collect();
        Some(Some(door))
    }

    fn list(&mut self, state: PatchState, door: Option<Door>) {
        let listed = ListedThread {
            thread: THREAD,
            state,
            door,
        };
        let opened = self.table().open(self.others, std::iter::once(listed));
        opened.expect("there is room");
        self.door = door;
        self.is_plain = true;
    }

    /// A controller does something.
    fn control(&mut self) {
        if !self.open {
            self.table()
                .open(self.others, std::iter::empty())
                .expect("nobody");
            self.site.write(OLD, NEW);
            self.open = true;
            self.start();
        } else if self.below(4) == 0 {
            self.table().shut(THREAD);
            self.start();
        } else if self.state() != self.others {
            match self.look(code(self.state())) {
                None => self.table().switch(THREAD, self.others),
                Some(Some(door)) => {
                    // One that was closed promises nothing more.
                    let is_open = self.table().set_door(THREAD, &door);
                    self.door = is_open.then_some(door);
                    self.is_plain = true;
                }
                Some(None) => {}
            }
        }
    }

    /// Lets the others go to the other side, and the thread too, if it is clear.
    fn start(&mut self) {
        let state = self.state();
        let target = self.others.other();
        if state != target {
            if let Some(door) = self.look(code(state)) {
                self.list(state, door);
            } else {
                self.table()
                    .open(self.others, std::iter::empty())
                    .expect("nobody");
            }
        } else {
            self.list(state, None);
        }
        self.table().switch_others(target);
        self.others = target;
    }

    fn step(&mut self) {
        match self.below(100) {
            0..20 => self.call(Some(true)),
            20..38 => self.call(None),
            38..43 => self.jump(true),
            43..46 => self.jump(false),
            46..75 => self.leave(),
            75..80 => self.signal(),
            80..83 => self.long_jump(),
            83..91 => self.change_context(),
            _ => self.control(),
        }
        let versions = self.versions();
        assert!(versions.len() < 2, "two universes");
    }
}

fn code(state: PatchState) -> u64 {
    match state {
        PatchState::Unpatched => OLD,
        PatchState::Patched => NEW,
    }
}

/// One run: how many switches at the door there were, or what was found.
fn run(seed: u64, control: Control) -> Result<usize, String> {
    let run = std::panic::catch_unwind(|| {
        let mut run = Run::new(seed, control);
        for _ in 0..run.below(150) {
            if run.contexts[run.current].frames.len() < 12 {
                run.step();
            } else {
                run.leave();
            }
        }
        run.switches
    });
    run.map_err(|what| {
        let text = what.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| what.downcast_ref::<String>().cloned());
        format!("{}, seed {seed}", text.unwrap_or_default())
    })
}

fn count() -> u64 {
    match std::env::var_os("ENGRAFT_LONG_TESTS") {
        Some(_) => 2_000_000,
        None => 100_000,
    }
}

#[test]
fn no_thread_sees_two_universes() {
    let mut switches = 0;
    for seed in 1..=count() {
        match run(seed, Control::None) {
            Ok(more) => switches += more,
            Err(found) => panic!("{found}"),
        }
    }
    println!("{} runs, {switches} switches at the door", count());
    assert!(switches > 1000, "only {switches} switches at the door");
}

/// A control is noticed by this word.
#[track_caller]
fn control(control: Control, text: &str) {
    // Each run that finds something panics, which need not be told.
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = (1..=count()).filter_map(|seed| run(seed, control).err());
    let first = found.find(|found| found.contains(text));
    let _ = std::panic::take_hook();
    println!("{control:?}: {first:?}");
    assert!(first.is_some(), "{control:?} goes unnoticed");
}

/// A handler on an alternate stack that lies where the thread's frames have been, and that was not
/// there at the look. It calls from exactly where one of the frames was called, while the thread is
/// inside below it.
fn handler_where_frames_have_been(control: Control) -> u64 {
    let mut run = Run::new(1, control);
    run.push(OWN.end, 32, None);
    run.push(OWN.end - 40, 16, Some(OLD));
    run.control();
    assert_eq!(run.state(), PatchState::Unpatched);
    run.leave();
    run.leave();
    run.push(OWN.end, 0x4000, None);
    run.alternate = Some((OWN.end - 0x3000..OWN.end - 16, 3));
    let below = OWN.end - 8 - 0x4000;
    assert_eq!(run.enter(below, 1, false), OLD);
    run.push(below, 16, Some(OLD));
    run.push(OWN.end - 16, 16, None);
    run.enter(OWN.end - 40, 1, false)
}

#[test]
fn the_kernel_is_asked() {
    assert_eq!(handler_where_frames_have_been(Control::None), OLD);
    // And it matters.
    assert_eq!(handler_where_frames_have_been(Control::NoQuestion), NEW);
}

/// A stack in an array of the thread's first frame, where a walk ends at code without a table. After
/// the look the thread leaves that stack, calls the old code further in on its first one, comes
/// back, and returns to where the next call would be from exactly the noted depth.
fn stack_in_an_array(control: Control) -> u64 {
    let mut run = Run::new(1, control);
    run.push(OWN.end, 0x4000, None);
    run.contexts.push(Context {
        frames: Vec::new(),
        top: OWN.end - 0x100,
        owner: Some(1),
    });
    run.current = 1;
    run.push(OWN.end - 0x100, 32, None);
    run.here().frames[0].is_undescribed = true;
    let depth = run.here().at();
    run.push(depth, 16, Some(OLD));
    run.control();
    assert!(run.door.is_some(), "no door");
    run.current = 0;
    let further_in = run.here().at();
    assert_eq!(run.enter(further_in, 1, false), OLD);
    run.push(further_in, 16, Some(OLD));
    run.current = 1;
    run.leave();
    run.enter(depth, 1, false)
}

#[test]
fn a_walk_that_ended_early_knows_only_the_frames_that_it_saw() {
    assert_eq!(stack_in_an_array(Control::None), OLD);
    // And it matters.
    assert_eq!(stack_in_an_array(Control::LooseBounds), NEW);
}

#[test]
fn controls() {
    control(Control::NoBounds, "two universes");
    control(Control::Above, "two universes");
    control(Control::Strictly, "has not switched");
    control(Control::BrokenWalk, "two universes");
    control(Control::NoScan, "two universes");
    control(
        Control::NoJumps,
        "a body of one universe calls one of the other",
    );
    control(Control::Forgetful, "two universes");
}
