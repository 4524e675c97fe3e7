//! `parity_trace!`.

use proc_macro2::TokenStream;
use quote::quote;

/// Nothing when `on` is false; a guarded call into the run-time half when it is true.
pub(crate) fn expand(args: TokenStream, on: bool) -> TokenStream {
    let [step, token, logits] = match crate::args::exactly("parity_trace!", ["step", "token", "logits"], args)
    {
        Ok(values) => values,
        Err(error) => return error.into_compile_error(),
    };
    if !on {
        return TokenStream::new();
    }
    quote! {
        let () = if ::bitnet_core::trace::parity_on() {
            ::bitnet_core::trace::parity_line(#step, #token, #logits);
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_leaves_no_token() {
        assert!(expand(quote!(step = n, token = sampler.sample(), logits = l), false).is_empty());
    }

    #[test]
    fn on_is_one_guarded_call() {
        let expected = quote! {
            let () = if ::bitnet_core::trace::parity_on() {
                ::bitnet_core::trace::parity_line(n, id, &l);
            };
        };
        let expanded = expand(quote!(step = n, token = id, logits = &l), true);
        assert_eq!(expanded.to_string(), expected.to_string());
    }

    #[test]
    fn arguments_are_checked_in_both_states() {
        for on in [false, true] {
            let found = expand(quote!(step = n, logits = l), on).to_string();
            assert!(found.contains("argument `token` is missing"), "{found}");
            assert!(
                found.contains("expected `parity_trace!(step = .., token = .., logits = ..)`"),
                "{found}"
            );
        }
    }
}
