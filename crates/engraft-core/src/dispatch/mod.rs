//! Dispatch: what runs on every call of a patched function while a transition is on.
//!
//! [`dispatch`] decides which body a call goes to. It may run in any thread at any instant, also in
//! a signal handler and while the process is being patched, so it takes no lock, allocates nothing
//! and cannot panic. It reads words that whoever drives the transition writes, one writer at a
//! time:
//!
//! - two for each site: the body that runs without the patch in transition, and the one with it;
//! - one for the transition: the state of all threads that are not in the table;
//! - a table of the threads that stay behind, or are ahead, when all others move;
//! - and one that says where the table is, which only the caller of `dispatch` knows.
//!
//! # Order
//!
//! A transition opens by writing the others' state first and the sites after, and closes by
//! writing the sites first and the states after. So whoever sees a site choose, sees states of that
//! transition, or of a later one. In the latter case the site has changed since; therefore a site
//! is read again after the state, and if it changed, all is read again. Otherwise a thread that was
//! born in one transition (nobody waited for it), got as far as reading a site, and slept until the
//! next one, would put the old site's words and the new transition's state together, and run what
//! the first transition has thrown away.
//!
//! A transition starts by listing threads, each in the state that it is in, and then moving the
//! others, by one store. Threads may run all the while, or the store may never come (the model then
//! has the transition as not started): listing changes nobody's state at any instant.
//!
//! # The door
//!
//! A thread that stays behind may have a [`Door`]: its state word says so, and the thread itself may
//! change that word then, in `dispatch`, by compare-and-swap: it switches to where the others are, or
//! closes the door. Whoever drives the transition closes the door before anything else happens to
//! the word ([`ThreadTable::shut`]), and from then on is its one writer again. A door is of no use
//! before the others have moved: a thread that comes before that closes it.
//!
//! A thread that is inside `dispatch` when the others move, or a handler of it has interrupted
//! `dispatch`, must get no door: it may have words of an earlier one in its registers.
//!
//! From the decision to the end of the body, the thread is inside code that the stack check knows:
//! whoever drives the transition treats a thread inside the code that calls `dispatch` as not
//! clear, so the bodies in its registers stay, and so does its state.
//!
//! # A larger table
//!
//! A table may be replaced by a larger one, which lists what the old one listed ([`ThreadTable::copy`]).
//! Its pointer is stored with Release before any site of the next transition chooses, or before
//! any thread is listed in it that the old one did not list. Old tables stay,
//! as they were left, for as long as there are threads: one may be asleep in `dispatch` with an old
//! table in hand. What it finds there is nothing, or the state that it had when it went to sleep, and
//! still has, since it is not clear. If nothing, it looks again after it has read the others' state,
//! and asks again where the table is. That load comes after the one of the others' state, which is
//! Acquire; so if the others have moved, the table is found that was published before the sites
//! chose, and in it the thread, because whoever moved them saw it asleep and listed it.
//!
//! Must not know patches, modules or funcs.

mod decide;
pub mod door;
mod table;
mod word;
mod words;

pub use decide::dispatch;
pub use table::{Listed, TableFull, ThreadTable};
pub use word::Word;
pub use words::{DOOR, SiteWords, ThreadSlot, TransitionWords, decode, encode};
