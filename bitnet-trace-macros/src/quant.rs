//! `quant_trace!`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

/// Nothing when `on` is false; a guarded call into the run-time half when it is true.
pub(crate) fn expand(args: TokenStream, on: bool) -> TokenStream {
    let values = match crate::args::exactly("quant_trace!", ["tensor", "format", "kernel", "shape"], args) {
        Ok(values) => values,
        Err(error) => return error.into_compile_error(),
    };
    if !on {
        return TokenStream::new();
    }
    let [tensor, format, kernel, shape] = values.map(|value| quote_spanned!(value.span()=> &(#value)));
    quote! {
        let () = if ::bitnet_core::trace::quant_on() {
            ::bitnet_core::trace::quant_line(#tensor, #format, #kernel, #shape);
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(args: TokenStream) -> String {
        let off = expand(args.clone(), false).to_string();
        assert_eq!(off, expand(args, true).to_string(), "a mistake must read the same in both states");
        assert!(off.starts_with(":: core :: compile_error !"), "{off}");
        off
    }

    #[test]
    fn off_leaves_no_token() {
        let args = quote!(tensor = name, format = f, kernel = panic!(), shape = [rows, cols]);
        assert!(expand(args, false).is_empty());
    }

    #[test]
    fn on_is_one_guarded_call_with_the_arguments_in_their_order() {
        let expanded = expand(quote!(shape = [r, c], kernel = k.name(), tensor = name, format = f,), true);
        let expected = quote! {
            let () = if ::bitnet_core::trace::quant_on() {
                ::bitnet_core::trace::quant_line(&(name), &(f), &(k.name()), &([r, c]));
            };
        };
        assert_eq!(expanded.to_string(), expected.to_string());
    }

    #[test]
    fn arguments_are_checked_in_both_states() {
        let allowed = "expected `quant_trace!(tensor = .., format = .., kernel = .., shape = ..)`";
        let mistakes = [
            (quote!(), "argument `tensor` is missing"),
            (quote!(tensor = a, format = b, kernel = c), "argument `shape` is missing"),
            (quote!(tensor = a, name = b), "unknown argument `name`"),
            (quote!(tensor = a, tensor = b), "argument `tensor` is given twice"),
            (quote!(tensor, format = b), "expected `quant_trace!"),
            (quote!(tensor = a; format = b), "expected `,`"),
        ];
        for (args, text) in mistakes {
            let found = error(args);
            assert!(found.contains(text) && found.contains(allowed), "{found}");
        }
        assert!(error(quote!(tensor = name?)).contains("`?` cannot stand in a trace argument"));
    }
}
