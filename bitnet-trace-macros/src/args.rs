//! What may stand between the parentheses, and every refusal.
//!
//! Nothing here knows whether the feature is on: arguments are read the same way in both states.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Error, Expr, Ident, Result, Signature, Token, Visibility};

/// The names `BITNET_TRACE_TIMING` prints, in the order of its lines.
pub(crate) const PHASES: [&str; 4] = ["embed", "forward", "logits", "sample"];

/// `field = expr`.
pub(crate) struct Field {
    pub(crate) name: Ident,
    pub(crate) value: Expr,
}

impl Parse for Field {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let name = Ident::parse_any(input)?;
        let equals: Token![=] = input.parse()?;
        if input.is_empty() || input.peek(Token![,]) {
            return Err(Error::new(equals.span, format!("expected a value after `{name} =`")));
        }
        let value: Expr = input.parse()?;
        must_be_free_to_vanish(value.to_token_stream())?;
        Ok(Field { name, value })
    }
}

/// An argument disappears without the feature, so it must not steer the function it stands in.
fn must_be_free_to_vanish(tokens: TokenStream) -> Result<()> {
    for token in tokens {
        let refused = match &token {
            TokenTree::Punct(p) if p.as_char() == '?' => true,
            TokenTree::Ident(i) => i == "return" || i == "await" || i == "break" || i == "continue",
            TokenTree::Group(g) => {
                must_be_free_to_vanish(g.stream())?;
                false
            }
            _ => false,
        };
        if refused {
            let text = format!(
                "`{token}` cannot stand in a trace argument: without the `instrument` feature the argument \
                 vanishes; compute the value in a statement of its own"
            );
            return Err(Error::new(token.span(), text));
        }
    }
    Ok(())
}

/// What fits in a recorded span: `bitnet_core::trace::lane` draws it.
const MAX_FIELDS: usize = 10;

/// The arguments of `#[trace_timing]`.
pub(crate) struct TimingArgs {
    /// The span's name, when written.
    pub(crate) name: Option<Ident>,
    /// What is recorded with the span.
    pub(crate) fields: Vec<Field>,
}

const TIMING_ALLOWED: &str =
    "expected `#[trace_timing]`, `#[trace_timing(name)]` or `#[trace_timing(name, field = expr, ...)]`";

impl Parse for TimingArgs {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut args = TimingArgs { name: None, fields: Vec::new() };
        let mut first = true;
        while !input.is_empty() {
            if !input.peek(Ident::peek_any) {
                return Err(input.error(TIMING_ALLOWED));
            }
            if input.peek2(Token![=]) {
                let field: Field = input.parse()?;
                if args.fields.iter().any(|f| f.name == field.name) {
                    let text = format!("field `{}` is given twice", field.name);
                    return Err(Error::new(field.name.span(), text));
                }
                if args.fields.len() == MAX_FIELDS {
                    let text = format!("a span holds at most {MAX_FIELDS} fields");
                    return Err(Error::new(field.name.span(), text));
                }
                args.fields.push(field);
            } else {
                let name = Ident::parse_any(input)?;
                if !first {
                    let text = format!(
                        "`{name}` has no value: after the first argument only `field = expr` is allowed, \
                         as in `{name} = {name}`"
                    );
                    return Err(Error::new(name.span(), text));
                }
                args.name = Some(name);
            }
            first = false;
            if !input.is_empty() && !input.peek(Token![,]) {
                return Err(input.error(format!("expected `,`; {TIMING_ALLOWED}")));
            }
            input.parse::<Option<Token![,]>>()?;
        }
        Ok(args)
    }
}

/// The start of an annotated item, as far as it has to be understood.
pub(crate) struct FnHead {
    /// The function's own name.
    pub(crate) name: Ident,
}

impl Parse for FnHead {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let start = input.span();
        input.parse::<Visibility>()?;
        let is_default_method =
            input.peek(Ident) && input.fork().parse::<Ident>().is_ok_and(|i| i == "default");
        if is_default_method {
            input.parse::<Ident>()?;
        }
        let Ok(sig) = input.parse::<Signature>() else {
            return Err(Error::new(start, "#[trace_timing] goes on a function or a method"));
        };
        if let Some(token) = sig.constness {
            let text = "#[trace_timing] cannot time a `const fn`: it may run in the compiler, where no clock is; \
                        time its caller";
            return Err(Error::new(token.span, text));
        }
        if let Some(token) = sig.asyncness {
            let text = "#[trace_timing] cannot time an `async fn`: its body runs in pieces, on whichever thread \
                        polls it; time the functions it calls";
            return Err(Error::new(token.span, text));
        }
        if let Some(span) = attrs.iter().find_map(inline_always) {
            let text = "#[trace_timing] cannot time an `#[inline(always)]` function: a span costs more than \
                        such a helper; use `#[inline]` or time its caller";
            return Err(Error::new(span, text));
        }
        if input.peek(Token![;]) {
            let text = "#[trace_timing] needs a body; annotate the implementation, not the declaration";
            return Err(Error::new(sig.ident.span(), text));
        }
        input.parse::<TokenStream>()?; // where clause and body come back as they are
        Ok(FnHead { name: sig.ident })
    }
}

/// Where `#[inline(always)]` is written, if this is it.
fn inline_always(attr: &Attribute) -> Option<Span> {
    if !attr.path().is_ident("inline") {
        return None;
    }
    let argument: Ident = attr.parse_args().ok()?;
    (argument == "always").then(|| argument.span())
}

/// The arguments of a call, in the order of `names`, whatever order they were written in.
pub(crate) fn exactly<const N: usize>(call: &str, names: [&str; N], args: TokenStream) -> Result<[Expr; N]> {
    let allowed = names.map(|name| format!("{name} = ..")).join(", ");
    let allowed = format!("expected `{call}({allowed})`");
    let whole = args.clone();
    let parser = |input: ParseStream<'_>| {
        let mut found: [Option<Expr>; N] = [const { None }; N];
        while !input.is_empty() {
            if !(input.peek(Ident::peek_any) && input.peek2(Token![=])) {
                return Err(input.error(&allowed));
            }
            let field: Field = input.parse()?;
            let Some(slot) = names.iter().position(|name| field.name == name) else {
                let text = format!("unknown argument `{}`: {allowed}", field.name);
                return Err(Error::new(field.name.span(), text));
            };
            if found[slot].replace(field.value).is_some() {
                let text = format!("argument `{}` is given twice: {allowed}", field.name);
                return Err(Error::new(field.name.span(), text));
            }
            if !input.is_empty() && !input.peek(Token![,]) {
                return Err(input.error(format!("expected `,`: {allowed}")));
            }
            input.parse::<Option<Token![,]>>()?;
        }
        if let Some(slot) = found.iter().position(Option::is_none) {
            let text = format!("argument `{}` is missing: {allowed}", names[slot]);
            let error = match whole.is_empty() {
                true => Error::new(Span::call_site(), text),
                false => Error::new_spanned(&whole, text),
            };
            return Err(error);
        }
        Ok(found.map(|value| value.expect("every slot was just seen to be filled")))
    };
    syn::parse::Parser::parse2(parser, args)
}
