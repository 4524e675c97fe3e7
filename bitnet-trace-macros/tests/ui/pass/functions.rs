#![deny(warnings, unsafe_op_in_unsafe_fn)]
#![allow(dead_code)]

extern crate self as bitnet_core;
#[path = "../runtime.rs"]
pub mod trace;

use bitnet_trace_macros::trace_timing;

#[trace_timing]
fn plain() {}

#[trace_timing(forward, n = xs.len())]
fn phase(xs: &mut Vec<u32>) -> usize {
    xs.push(1);
    xs.len()
}

struct Net<T>(T);

impl<T: Copy + Into<f64>> Net<T> {
    /// Documented.
    #[trace_timing(product, n = n, last = *xs.last().unwrap_or(&0))]
    #[inline]
    pub fn method<'a, const N: usize>(
        &'a mut self,
        xs: &'a [u32],
        n: usize,
    ) -> impl Iterator<Item = u32> + use<'a, T, N>
    where
        T: 'static,
    {
        #![allow(unused_variables)]
        let unused = N;
        xs.iter().copied().take(n)
    }
}

trait Layer {
    #[trace_timing]
    fn provided(&self) -> u32 {
        1
    }
    fn required(self: Box<Self>) -> u32;
}

impl Layer for Net<f32> {
    #[trace_timing(name = self.0)]
    fn required(self: Box<Self>) -> u32 {
        self.provided()
    }
}

#[trace_timing]
unsafe fn trusted(p: *const u32) -> u32 {
    // SAFETY: the caller's pointer points at a u32.
    unsafe { *p }
}

#[cfg(target_arch = "x86_64")]
#[trace_timing]
#[inline]
#[target_feature(enable = "avx2")]
fn kernel(x: std::arch::x86_64::__m256i) -> std::arch::x86_64::__m256i {
    // Safe only where avx2 is enabled, so this would not build inside a closure without it.
    std::arch::x86_64::_mm256_add_epi8(x, x)
}

#[trace_timing(text = text)]
fn fails(text: String) -> Result<usize, std::num::ParseIntError> {
    let n: usize = text.parse()?;
    if n == 0 {
        return Ok(1);
    }
    Ok(n)
}

#[trace_timing]
fn panics() {
    panic!("on purpose");
}

fn main() {
    let on = !{ plain(); trace::seen() }.is_empty();
    let check = |expected: &[&str]| {
        let seen = trace::seen();
        if on {
            assert_eq!(seen, expected);
        } else {
            assert!(seen.is_empty(), "{seen:?}");
        }
    };

    assert_eq!(phase(&mut vec![7]), 2);
    check(&[r#"+forward["n"]["1"]"#, "-forward"]);
    assert_eq!(Net(1f32).method::<3>(&[4, 5], 1).collect::<Vec<_>>(), [4]);
    check(&[r#"+product["n", "last"]["1", "5"]"#, "-product"]);
    assert_eq!(Box::new(Net(0.5f32)).required(), 1);
    check(&[r#"+required["name"]["0.5"]"#, "+provided[][]", "-provided", "-required"]);
    // SAFETY: a live reference.
    assert_eq!(unsafe { trusted(&3) }, 3);
    check(&["+trusted[][]", "-trusted"]);

    assert!(fails("no".to_owned()).is_err());
    check(&[r#"+fails["text"]["no"]"#, "-fails"]);
    assert_eq!(fails("0".to_owned()), Ok(1));
    check(&[r#"+fails["text"]["0"]"#, "-fails"]);
    std::panic::set_hook(Box::new(|_| {}));
    assert!(std::panic::catch_unwind(panics).is_err());
    check(&["+panics[][]", "-panics"]);
}
