#!/usr/bin/env perl
# Blanks the tracing annotations in a tree of Rust sources: every character of one, but line feeds, becomes a
# blank, so that lines and columns of everything else stay. This is the tree the zero-cost proof compares with.
#
# Usage: blank_annotations.pl [--leak attributes|calls] DIR        changes the files
#        blank_annotations.pl --self-test
#
# What it blanks, wherever it stands in code (not in comments, strings or character literals), over any number
# of lines, with or without a path in front as in `bitnet_trace_macros::trace_timing`:
#
#   #[trace_timing]   #[trace_timing(...)]
#   quant_trace!(...)   parity_trace!(...)          with () [] or {}, and the `;` that follows
#
# `use ...;` is left alone. Any other mention of the three names in code, as in `cfg_attr(x, trace_timing)` or a
# `use ... as`, is refused, since it could hide an annotation. The crate that defines the macros is skipped.
#
# --leak instead puts a visible statement into the body of every #[trace_timing] function, or before every call, and
# leaves everything else: an annotation that does not vanish, for the proof to catch.
use strict;
use warnings;
use utf8;
use File::Find;

my $NAME = qr/(?:trace_timing|quant_trace|parity_trace)\b/;
my $PATH = qr/(?:(?:::)?\s*(?:\w+\s*::\s*)*)/;
my $LEAK = ' ::std::hint::black_box("an annotation that did not vanish");';

# Length of the comment, string or character literal that starts at $at, or 0.
sub opaque_length {
    my ($text, $at) = @_;
    pos($$text) = $at;
    return $+[0] - $at if $$text =~ m{\G//[^\n]*}gc;
    if ($$text =~ m{\G/\*}gc) {
        my $depth = 1;
        while ($depth > 0) {
            $$text =~ m{\G.*?(/\*|\*/)}gcs or die "a comment that does not end\n";
            $depth += $1 eq '/*' ? 1 : -1;
        }
        return pos($$text) - $at;
    }
    if ($$text =~ m{\G(?:b|c)?r(#*)"}gc) {
        my $end = "\"$1";
        my $close = index($$text, $end, pos($$text));
        die "a raw string that does not end\n" if $close < 0;
        return $close + length($end) - $at;
    }
    return $+[0] - $at if $$text =~ m{\G[bc]?"(?:[^"\\]|\\.)*"}gcs;
    # A character, not a lifetime: one (escaped) character between quotes.
    return $+[0] - $at if $$text =~ m~\Gb?'(?:[^'\\\n]|\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.))'~gcs;
    return 0;
}

# The end of the bracketed group that opens at $at.
sub group_end {
    my ($text, $at) = @_;
    my %close = ('(' => ')', '[' => ']', '{' => '}');
    my @open;
    while ($at < length $$text) {
        if (my $n = opaque_length($text, $at)) { $at += $n; next }
        my $c = substr($$text, $at, 1);
        if ($close{$c}) { push @open, $close{$c} }
        elsif ($c =~ /[)\]}]/) {
            die "brackets that do not match\n" unless @open && pop(@open) eq $c;
            return $at + 1 unless @open;
        }
        $at++;
    }
    die "a bracket that does not close\n";
}

# The place just behind the opening brace of the function that follows $at.
sub body_start {
    my ($text, $at) = @_;
    while ($at < length $$text) {
        if (my $n = opaque_length($text, $at)) { $at += $n; next }
        my $c = substr($$text, $at, 1);
        return $at + 1 if $c eq '{';
        $at = $c =~ /[(\[]/ ? group_end($text, $at) : $at + 1;
    }
    die "an annotation without a function\n";
}

# Returns the new text and how many attributes and calls it met.
sub treat {
    my ($text, $leak) = @_;
    my ($attributes, $calls, @leaks) = (0, 0);
    my $blank = sub {
        my ($from, $to) = @_;
        return if $leak;
        (my $blanks = substr($text, $from, $to - $from)) =~ s/[^\n]/ /g;
        substr($text, $from, $to - $from) = $blanks;
    };
    my $at = 0;
    while ($at < length $text) {
        if (my $n = opaque_length(\$text, $at)) { $at += $n; next }
        pos($text) = $at;
        my $start = $at;
        if ($text =~ /\G#\s*\[\s*$PATH(trace_timing)\b/gc) {
            my $open = index($text, '[', $at);
            my $end = group_end(\$text, $open);
            push @leaks, body_start(\$text, $end) if $leak eq 'attributes';
            $blank->($start, $end);
            $attributes++;
            $at = $end;
        } elsif ($text =~ /\G$PATH(?:quant_trace|parity_trace)\s*!\s*(?=[(\[{])/gc) {
            my $end = group_end(\$text, pos($text));
            pos($text) = $end;
            $end = pos($text) if $text =~ /\G\s*;/gc;
            # Behind the blanks, which may follow a comment that would swallow it.
            push @leaks, $start + length((substr($text, $start) =~ /^(\s*)/)[0]) if $leak eq 'calls';
            $blank->($start, $end);
            $calls++;
            $at = $end;
        } elsif ($text =~ /\Guse\b[^;]*?$NAME\s+as\b/gc) {
            refuse($text, $at, 'an annotation under another name');
        } elsif ($text =~ /\Guse\s[\w\s:{},*#]*;/gc) {
            $at = pos($text);
        } elsif ($text =~ /\G($NAME)/gc) {
            refuse($text, $at, "`$1` in a form this tool does not know");
        } elsif ($text =~ /\G\w+/gc) {
            $at = pos($text);
        } else {
            $at++;
        }
    }
    substr($text, $_, 0) = $LEAK for sort { $b <=> $a } @leaks;
    return ($text, $attributes, $calls);
}

sub refuse {
    my ($text, $at, $why) = @_;
    my $line = 1 + (substr($text, 0, $at) =~ tr/\n//);
    die "line $line: $why\n";
}

sub self_test {
    my $code = <<'RUST';
use bitnet_trace_macros::{parity_trace, trace_timing};
/// #[trace_timing] in a comment, quant_trace!(a) too.
#[trace_timing] #[inline]
fn one<'a>(x: &'a str) -> [u8; 2] { "#[trace_timing]"; r#"quant_trace!(")"#; ']'; '\''; b'{'; [1, 2] }
#[ bitnet_core::trace::trace_timing(name, // a ] in a comment
    text = "]", rows = f([1, 2]))]
fn two() where [(); { 1 }]: Sized { if x { quant_trace!(tensor = t, shape = [1]); } go(); parity_trace! {step = 1}
  ; crate::trace::quant_trace![ "é;" ] ; done() }
/* outer /* #[trace_timing] */ still */ fn trace_timings() {}
RUST
    my $expected = $code;
    for my $gone (
        '^#\[trace_timing\](?= #)', '#\[ bitnet_core::trace.*?\]\)\)\]', 'quant_trace!\(tensor = t, shape = \[1\]\);',
        'parity_trace! \{step = 1\}\n  ;', 'crate::trace::quant_trace!\[ "é;" \] ;'
    ) {
        $expected =~ s/($gone)/(my $b = $1) =~ s{[^\n]}{ }g; $b/mse or die "self-test: $gone is not in the sample\n";
    }
    my ($found, $attributes, $calls) = treat($code, '');
    die "self-test: expected\n$expected\nfound\n$found" unless $found eq $expected;
    die "self-test: counted $attributes attributes and $calls calls\n" unless $attributes == 2 && $calls == 3;
    my ($leaked) = treat("#[trace_timing]\nfn f(x: [u8; { 1 }]) -> u8\n{ 1 }\n", 'attributes');
    die "self-test: leaked\n$leaked" unless $leaked eq "#[trace_timing]\nfn f(x: [u8; { 1 }]) -> u8\n{$LEAK 1 }\n";
    ($leaked) = treat("#[trace_timing]\nfn f() { // go\n a::quant_trace!(x = 1); }\n", 'calls');
    die "self-test: leaked\n$leaked" unless $leaked eq "#[trace_timing]\nfn f() { // go\n ${LEAK}a::quant_trace!(x = 1); }\n";
    for my $bad (
        '#[cfg_attr(x, trace_timing)] fn f() {}', 'use a::trace_timing as t;', 'macro_rules! m { () => { quant_trace } }',
        'quant_trace!(tensor = (];', '#[trace_timing', 'fn f() -> impl A + use <> { trace_timing; }',
    ) {
        die "self-test: accepted $bad\n" if eval { treat($bad, ''); 1 };
    }
    print "blank_annotations.pl: self-test passed\n";
}

if (@ARGV == 1 && $ARGV[0] eq '--self-test') { self_test(); exit 0 }
my $leak = @ARGV > 1 && $ARGV[0] eq '--leak' ? (splice @ARGV, 0, 2)[1] : '';
@ARGV == 1 && -d $ARGV[0] && $leak =~ /^(?:|attributes|calls)$/
    or die "usage: blank_annotations.pl [--leak attributes|calls] DIR, or --self-test\n";
my ($files, $attributes, $calls) = (0, 0, 0);
my @sources;
find({ no_chdir => 1, wanted => sub {
    if (-d && m{/(?:target|bitnet-trace-macros)$}) { $File::Find::prune = 1; return }
    push @sources, $_ if -f && /\.rs$/;
} }, $ARGV[0]);
for my $file (sort @sources) {
    open my $in, '<:raw:encoding(UTF-8)', $file or die "$file: $!\n";
    my $text = do { local $/; <$in> };
    close $in;
    my ($new, $a, $c) = eval { treat($text // '', $leak) } or die "$file: $@";
    next unless $a + $c;
    open my $out, '>:raw:encoding(UTF-8)', $file or die "$file: $!\n";
    print $out $new;
    close $out or die "$file: $!\n";
    $files++; $attributes += $a; $calls += $c;
}
die "no annotation in $ARGV[0]: nothing to prove\n" unless $attributes + $calls;
print "$attributes $calls $files\n";
