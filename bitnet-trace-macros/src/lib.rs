//! Tracing annotations that expand to nothing unless the `instrument` feature is on.
//!
//! Three macros, two states. **Off** (the default) an annotated function comes back token for token and a
//! call leaves no token behind, so its arguments are never evaluated. **On** each costs one inlined relaxed
//! load until its switch is set in the environment. In both states the arguments are parsed, and a mistake is
//! reported at its token with what is allowed, so a build that never traces cannot hide one that would fail.
//!
//! # `#[trace_timing]`: where the time goes
//!
//! ```text
//! #[trace_timing]                                  a detail span named after the function
//! #[trace_timing(attn_q)]                          a detail span with a name of its own
//! #[trace_timing(rows = w.rows(), bytes = n)]      with fields; the name may stand before them
//! #[trace_timing(forward)]                         a phase: embed, forward, logits or sample, written out
//! ```
//!
//! A *phase* is a span whose name is written out and is one of `embed`, `forward`, `logits` and `sample`:
//! these four are what `BITNET_TRACE_TIMING=1` prints. Everything else is a *detail*, recorded only for
//! `BITNET_TRACE_FILE` or a profile. A function that merely happens to be called `forward` is neither: bare
//! `#[trace_timing]` on it is refused, so that no phase is counted by accident.
//!
//! Fields are numbers, booleans and text, evaluated on entry and only while a span is being recorded; a field
//! named `bytes` is what a profile divides by the time. With the feature on,
//!
//! ```text
//! #[trace_timing(rows = w.rows())]                 fn gemv(y: &mut [f32], w: Ternary<'_>) {
//! fn gemv(y: &mut [f32], w: Ternary<'_>) {             let _span = {
//!     body                                                 static SITE: ::bitnet_core::trace::Site = ..;
//! }                                                        if ::bitnet_core::trace::detail_on() {
//!                                                              SITE.enter(&[Field::field(&(w.rows()))])
//!                                                          } else { Span::off() }
//!                                                      };
//!                                                      body
//!                                                  }
//! ```
//!
//! The span is a guard at the head of the same body, not a closure around it: `?`, `return` and a panic close
//! it, and the body of a `#[target_feature]` function keeps its features. `const fn`, `async fn` and
//! `#[inline(always)]` are refused by name.
//!
//! # `quant_trace!`: which kernel took which tensor
//!
//! ```text
//! quant_trace!(tensor = name, format = format, kernel = kernel, shape = [rows, cols]);
//!
//! let () = if ::bitnet_core::trace::quant_on() {
//!     ::bitnet_core::trace::quant_line(&(name), &(format), &(kernel), &([rows, cols]));
//! };
//! ```
//!
//! The first three are shown with `Display`, the shape with `Debug`.
//!
//! # `parity_trace!`: which token was chosen, by which logits
//!
//! ```text
//! parity_trace!(step = n, token = id, logits = logits);
//!
//! let () = if ::bitnet_core::trace::parity_on() {
//!     ::bitnet_core::trace::parity_line(n, id, logits);
//! };
//! ```
//!
//! Both calls are statements; as an expression neither state compiles, so no value can depend on a trace.

mod args;
mod parity;
mod quant;
mod timing;

use proc_macro::TokenStream;

/// The one place where the feature is read.
const ON: bool = cfg!(feature = "instrument");

/// Times a function or method: `#[trace_timing]`, `#[trace_timing(name)]`, `#[trace_timing(name, field = expr)]`.
///
/// See the [crate documentation](crate) for the expansion and for what tells a phase from a detail.
#[proc_macro_attribute]
pub fn trace_timing(args: TokenStream, item: TokenStream) -> TokenStream {
    timing::expand(args.into(), item.into(), ON).into()
}

/// Tells which kernel was chosen for a tensor: `quant_trace!(tensor = .., format = .., kernel = .., shape = ..);`.
///
/// See the [crate documentation](crate) for the expansion.
#[proc_macro]
pub fn quant_trace(args: TokenStream) -> TokenStream {
    quant::expand(args.into(), ON).into()
}

/// Logs a chosen token and the largest logits: `parity_trace!(step = .., token = .., logits = ..);`.
///
/// See the [crate documentation](crate) for the expansion.
#[proc_macro]
pub fn parity_trace(args: TokenStream) -> TokenStream {
    parity::expand(args.into(), ON).into()
}
