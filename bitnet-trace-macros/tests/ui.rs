//! What the compiler says to someone who misuses an annotation, and what it must accept in silence.
//!
//! The texts are the same with and without `instrument`; run this in both states.

#[test]
fn misuse_is_reported_at_its_token_with_what_is_allowed() {
    trybuild::TestCases::new().compile_fail("tests/ui/fail/*.rs");
}

#[test]
fn every_kind_of_function_can_be_annotated() {
    trybuild::TestCases::new().pass("tests/ui/pass/*.rs");
}
