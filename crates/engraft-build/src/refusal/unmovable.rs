//! Why the first instructions of a function cannot be moved into a trampoline.

/// Why an instruction cannot be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmovable {
    /// The bytes are no instruction, or the instruction ends after the function.
    #[error("it does not decode")]
    NoInstruction,
    /// The function's last instruction, after which execution runs into other code or none.
    #[error("the function ends after it without returning")]
    FallsOut,
    /// Its address size or operand size cuts off the address it refers to.
    #[error("it refers to an address with fewer than 64 bits")]
    Narrow,
    /// It calls the instruction behind it to learn where it is.
    #[error("it takes its own address from the stack")]
    CallsNext,
}
