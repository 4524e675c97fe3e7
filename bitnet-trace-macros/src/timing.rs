//! `#[trace_timing]`.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Error, Result};

use crate::args::{Field, FnHead, PHASES, TimingArgs};

/// The item as it shall be compiled: untouched when `on` is false, with a span at the head of its body when
/// it is true, and preceded by a `compile_error!` when it cannot be timed.
pub(crate) fn expand(args: TokenStream, item: TokenStream, on: bool) -> TokenStream {
    let span = match checked(args, &item) {
        Ok(span) => span,
        Err(error) => {
            let error = error.into_compile_error();
            return quote!(#error #item);
        }
    };
    if on { with_guard(item, span.guard()) } else { item }
}

/// A span that passed every check.
struct TimedSpan {
    name: String,
    phase: bool,
    fields: Vec<Field>,
}

fn checked(args: TokenStream, item: &TokenStream) -> Result<TimedSpan> {
    let args: TimingArgs = syn::parse2(args)?;
    let head: FnHead = syn::parse2(item.clone())?;
    let written = args.name.is_some();
    let name = args.name.unwrap_or_else(|| head.name.clone()).unraw().to_string();
    let phase = PHASES.contains(&name.as_str());
    if phase && !written {
        let text = format!(
            "`{name}` is the name of a phase: write `#[trace_timing({name})]` if this function is that phase, \
             or give the span another name"
        );
        return Err(Error::new(head.name.span(), text));
    }
    Ok(TimedSpan { name, phase, fields: args.fields })
}

impl TimedSpan {
    /// The statement that opens the span; dropping its variable closes it.
    fn guard(&self) -> TokenStream {
        let name = &self.name;
        let keys = self.fields.iter().map(|field| field.name.unraw().to_string());
        let values = self.fields.iter().map(|field| {
            let value = &field.value;
            quote_spanned!(value.span()=> ::bitnet_core::trace::Field::field(&(#value)))
        });
        let (new, is_on) = match self.phase {
            true => (phase_constructor(name), quote!(phase_on)),
            false => (quote!(detail), quote!(detail_on)),
        };
        // Mixed-site: the body can neither see nor shadow it.
        let guard = Ident::new("_span", Span::mixed_site());
        quote! {
            let #guard = {
                static __BITNET_SITE: ::bitnet_core::trace::Site = ::bitnet_core::trace::Site::#new(
                    #name,
                    ::core::module_path!(),
                    &[#(#keys),*]
                );
                if ::bitnet_core::trace::#is_on() {
                    __BITNET_SITE.enter(&[#(#values),*])
                } else {
                    ::bitnet_core::trace::Span::off()
                }
            };
        }
    }
}

fn phase_constructor(name: &str) -> TokenStream {
    let constructor = format_ident!("{name}_phase");
    quote!(#constructor)
}

/// Puts `guard` at the head of the body, which is the last brace group of a function.
fn with_guard(item: TokenStream, guard: TokenStream) -> TokenStream {
    let mut tokens: Vec<TokenTree> = item.into_iter().collect();
    let Some(TokenTree::Group(body)) = tokens.last() else {
        unreachable!("a function that is not a mere declaration ends with its body");
    };
    assert_eq!(body.delimiter(), Delimiter::Brace, "a function's body stands in braces");
    let (inner_attrs, statements) = split_inner_attributes(body.stream());
    let mut new = Group::new(Delimiter::Brace, quote!(#inner_attrs #guard #statements));
    new.set_span(body.span());
    tokens.pop();
    tokens.push(TokenTree::Group(new));
    tokens.into_iter().collect()
}

/// `#![..]` must stay in front of every statement.
fn split_inner_attributes(body: TokenStream) -> (TokenStream, TokenStream) {
    let tokens: Vec<TokenTree> = body.into_iter().collect();
    let is_punct =
        |at: usize, c: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == c);
    let mut n = 0;
    while is_punct(n, '#') && is_punct(n + 1, '!') {
        n += 3;
    }
    let statements = tokens[n..].iter().cloned().collect();
    (tokens[..n].iter().cloned().collect(), statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(args: TokenStream, item: TokenStream) -> String {
        let off = expand(args.clone(), item.clone(), false).to_string();
        let on = expand(args, item.clone(), true).to_string();
        assert_eq!(off, on, "a mistake must read the same in both states");
        assert!(off.ends_with(&item.to_string()), "the item must survive, or errors cascade: {off}");
        let text = off.strip_prefix(":: core :: compile_error ! { \"").expect("a compile_error! comes first");
        text[..text.find("\" }").unwrap()].to_owned()
    }

    #[track_caller]
    fn same(left: TokenStream, right: TokenStream) {
        assert_eq!(left.to_string(), right.to_string());
    }

    #[test]
    fn off_returns_every_kind_of_function_token_for_token() {
        let items = [
            quote! { fn plain() {} },
            quote! { pub(crate) fn method<'a, T: Into<f32>>(&'a mut self, x: T) -> impl Iterator<Item = T> + 'a where T: Copy { once(x) } },
            quote! { #[inline] #[target_feature(enable = "avx2")] unsafe fn kernel(y: &mut [f32]) { #![allow(unused)] body(y) } },
            quote! { unsafe extern "C" fn c<const N: usize>(x: [u8; N]) -> ! { loop {} } },
            quote! { default fn specialised(self: Box<Self>) {} },
        ];
        for item in items {
            for args in
                [quote!(), quote!(name), quote!(name, rows = self.w.rows(), cols = 3,), quote!(forward)]
            {
                same(expand(args, item.clone(), false), item.clone());
            }
        }
    }

    #[test]
    fn on_a_bare_annotation_is_a_detail_named_after_the_function() {
        let item =
            quote! { #[inline] pub unsafe fn gemv(&self, y: &mut [f32]) -> Result<()> { go(y)?; Ok(()) } };
        let expected = quote! {
            #[inline] pub unsafe fn gemv(&self, y: &mut [f32]) -> Result<()> {
                let _span = {
                    static __BITNET_SITE: ::bitnet_core::trace::Site = ::bitnet_core::trace::Site::detail(
                        "gemv",
                        ::core::module_path!(),
                        &[]
                    );
                    if ::bitnet_core::trace::detail_on() {
                        __BITNET_SITE.enter(&[])
                    } else {
                        ::bitnet_core::trace::Span::off()
                    }
                };
                go(y)?; Ok(())
            }
        };
        same(expand(quote!(), item, true), expected);
    }

    #[test]
    fn on_a_phase_is_written_out_and_fields_are_evaluated_only_behind_its_switch() {
        let expected = quote! {
            fn step(&mut self) {
                #![allow(unused)]
                let _span = {
                    static __BITNET_SITE: ::bitnet_core::trace::Site = ::bitnet_core::trace::Site::forward_phase(
                        "forward",
                        ::core::module_path!(),
                        &["n_tokens", "type"]
                    );
                    if ::bitnet_core::trace::phase_on() {
                        __BITNET_SITE.enter(&[
                            ::bitnet_core::trace::Field::field(&(tokens.len())),
                            ::bitnet_core::trace::Field::field(&(1))
                        ])
                    } else {
                        ::bitnet_core::trace::Span::off()
                    }
                };
                body();
            }
        };
        let item = quote! { fn step(&mut self) { #![allow(unused)] body(); } };
        same(expand(quote!(forward, n_tokens = tokens.len(), r#type = 1), item, true), expected);
    }

    #[test]
    fn functions_that_cannot_be_timed_are_refused_by_name() {
        assert!(error(quote!(), quote! { const fn f() {} }).contains("`const fn`"));
        assert!(error(quote!(), quote! { pub async fn f() {} }).contains("`async fn`"));
        assert!(error(quote!(), quote! { #[inline(always)] fn f() {} }).contains("`#[inline(always)]`"));
        assert!(error(quote!(), quote! { fn f(&self); }).contains("needs a body"));
        assert!(error(quote!(), quote! { struct S; }).contains("goes on a function or a method"));
    }

    #[test]
    fn a_phase_is_never_counted_by_accident() {
        assert!(error(quote!(), quote! { fn forward() {} }).contains("write `#[trace_timing(forward)]`"));
        same(expand(quote!(whole_step), quote! { fn forward() {} }, false), quote! { fn forward() {} });
    }

    #[test]
    fn arguments_are_checked_in_both_states() {
        let f = || quote! { fn f() {} };
        assert!(error(quote!(layer, pos), f()).contains("as in `pos = pos`"));
        assert!(error(quote!("name"), f()).contains("expected `#[trace_timing]`"));
        assert!(error(quote!(a = 1, a = 2), f()).contains("given twice"));
        let eleven = quote!(a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8, i = 9, j = 10, k = 11);
        assert!(error(eleven, f()).contains("at most 10 fields"));
        assert!(error(quote!(a = 1 b = 2), f()).contains("expected `,`"));
        assert!(error(quote!(a = next()?), f()).contains("`?` cannot stand in a trace argument"));
        assert!(
            error(
                quote!(
                    a = {
                        if x {
                            return;
                        }
                        3
                    }
                ),
                f()
            )
            .contains("`return` cannot stand")
        );
    }
}
