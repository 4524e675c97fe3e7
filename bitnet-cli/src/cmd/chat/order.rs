//! What a line asks for: a turn, or something of the program itself.

/// One line of the person.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order<'a> {
    /// Nothing but spaces.
    Nothing,
    /// A turn of the conversation.
    Say(&'a str),
    /// `/help`
    Help,
    /// `/clear`
    Clear,
    /// `/system`, with or without a text.
    System(Option<&'a str>),
    /// `/save FILE`
    Save(&'a str),
    /// `/metrics`
    Metrics,
    /// `/quit`
    Quit,
}

/// The answer to `/help`.
pub(super) const HELP: &str = "\
/help          this text
/clear         forget the conversation, keep the system prompt
/system TEXT   begin again with this system prompt; without TEXT, show it
/save FILE     write the conversation as JSON; an existing file is left alone
/metrics       positions used, tokens and speed
/quit          leave (as Ctrl-D)
//TEXT         say /TEXT
Ctrl-C         end a reply; at the prompt, twice, leave";

impl Order<'_> {
    /// Understands a line; the error is a sentence for the person.
    pub(super) fn of(line: &str) -> Result<Order<'_>, String> {
        if line.trim().is_empty() {
            return Ok(Order::Nothing);
        }
        let Some(rest) = line.strip_prefix('/') else { return Ok(Order::Say(line)) };
        if rest.starts_with('/') {
            return Ok(Order::Say(rest));
        }
        let (name, given) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let given = given.trim();
        let alone =
            |order| if given.is_empty() { Ok(order) } else { Err(format!("/{name} takes nothing after it")) };
        match name {
            "help" | "?" => alone(Order::Help),
            "clear" => alone(Order::Clear),
            "system" => Ok(Order::System((!given.is_empty()).then_some(given))),
            "save" if given.is_empty() => Err("/save: expected a file name after it".into()),
            "save" => Ok(Order::Save(given)),
            "metrics" => alone(Order::Metrics),
            "quit" | "exit" => alone(Order::Quit),
            _ => Err(format!("/{name}: no such command; /help lists them, //{name} says it to the model")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_turn_unless_it_begins_with_one_slash() {
        for (line, order) in [
            ("", Order::Nothing),
            (" \t", Order::Nothing),
            ("2/2=", Order::Say("2/2=")),
            (" /quit", Order::Say(" /quit")),
            ("//quit", Order::Say("/quit")),
            ("a\0b", Order::Say("a\0b")),
            ("/help", Order::Help),
            ("/clear ", Order::Clear),
            ("/system", Order::System(None)),
            ("/system  Be  brief. ", Order::System(Some("Be  brief."))),
            ("/save a b.json", Order::Save("a b.json")),
            ("/metrics", Order::Metrics),
            ("/quit", Order::Quit),
        ] {
            assert_eq!(Order::of(line), Ok(order), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_command_is_not_said_to_the_model() {
        for line in ["/", "/cler", "/quit now", "/save", "/save  ", "/home/ada/notes.txt"] {
            let refused = Order::of(line).unwrap_err();
            assert!(refused.starts_with('/'), "{line}: {refused}");
        }
    }

    #[test]
    fn the_help_lists_every_command() {
        for name in ["/help", "/clear", "/system", "/save", "/metrics", "/quit"] {
            assert!(HELP.lines().any(|line| line.starts_with(name)), "{name}");
        }
    }
}
