//! Dispatch: what runs on every call of a patched function while a transition is on.
//!
//! [`dispatch`] decides which body a call goes to. It may run in any thread at any instant, also in
//! a signal handler and while the process is being patched, so it takes no lock, allocates nothing
//! and cannot panic. It reads words that the driver of the transition writes, one writer at a time.
//! The driver is the model in the agent; while it holds the threads, also the controller. The words
//! are:
//!
//! - two for each site: the body that runs without the patch in transition, and the one with it;
//! - one for the transition: the state of all threads that are not in the table;
//! - a table of the threads that do not move when all others do;
//! - and one that says where the table is, which only the caller of `dispatch` knows.
//!
//! # Order
//!
//! A transition opens by writing the others' state first and the sites after, and closes by writing
//! the sites first and the states after. So a thread that sees a site choose also sees the states
//! of that transition, or of a later one. If they are of a later one, the site has changed since.
//! Therefore a site is read again after the state, and if it has changed, everything is read again.
//! Without the second reading, a thread born in one transition (nobody waited for it) could read a
//! site, sleep until the next transition, combine the old site's words with the new transition's
//! state, and run code that the first transition has released.
//!
//! A transition starts in two steps: it lists threads, each in the state that it is in, and then
//! moves all other threads by one store. Threads may run during both steps, and the store may never
//! come (for the model the transition has then not started). So listing must not change any
//! thread's state at any instant.
//!
//! # The door
//!
//! A blocked thread may have a [`Door`]. Its state word says so, and then the thread itself may
//! change the word, in `dispatch`, by compare-and-swap: it switches to the others' state, or closes
//! the door. The driver closes the door before it does anything else to the word
//! ([`ThreadTable::shut`]), and is its one writer again from then on. A thread that calls before
//! the others have moved closes its door, which is of no use yet.
//!
//! A thread gets no door if it is inside `dispatch` when the others move, or if a signal handler
//! has interrupted it there: it may have words of an earlier door in its registers.
//!
//! From the decision to the end of the body, the thread is inside code that the stack check knows.
//! The driver treats a thread inside the code that calls `dispatch` as blocked. So the bodies whose
//! addresses are in its registers stay, and so does its state.
//!
//! # A larger table
//!
//! A table may be replaced by a larger one, which lists what the old one listed
//! ([`ThreadTable::copy`]). Its pointer is stored with Release before any site of the next
//! transition chooses, or before any thread is listed in it that the old one did not list. Old
//! tables stay as they were left for as long as there are threads, because a thread may be asleep
//! in `dispatch` with the address of an old table. It finds there either nothing, or the state that
//! it had when it went to sleep; it still has that state, since it is blocked. If it finds nothing,
//! it reads the others' state and then looks again, asking again where the table is. That load
//! comes after the one of the others' state, which is Acquire. So if the others have moved, the
//! thread finds the table that was published before the sites chose. It is in that table, because
//! the driver that moved the others saw it asleep and listed it.
//!
//! Must not know patches, modules or funcs.

mod decide;
pub mod door;
mod table;
mod word;
mod words;

pub use decide::dispatch;
pub use table::{ListedThread, TableFull, ThreadTable};
pub use word::Word;
pub use words::{DOOR, SiteWords, ThreadSlot, TransitionWords, decode, encode};
