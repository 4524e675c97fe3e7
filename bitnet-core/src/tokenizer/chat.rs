//! Chat formats: how turns of a conversation become tokens.
//!
//! A format writes its markers as control tokens and everything a person or the model said as plain text, so
//! nobody can type a turn of somebody else's. Formats are built in; a file's Jinja template only helps to
//! recognise which one it wants.

use std::fmt;
use std::str::FromStr;

use super::{Piece, Tokenizer};
use crate::TokenId;
use crate::error::{Error, Result};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    fn lower(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        }
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into() }
    }
}

/// A way of writing conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChatFormat {
    /// BitNet b1.58 2B-4T: `User: ` + text + `<|eot_id|>`, then `Assistant: `. The format of its model card,
    /// not the one embedded in the published GGUF file, which the model was not tuned on.
    BitNet2b4t,
    /// Llama 3: `<|start_header_id|>user<|end_header_id|>`, two line breaks, text, `<|eot_id|>`.
    Llama3,
    /// Falcon3: `<|user|>`, a line break, text, a line break; replies end in `<|endoftext|>`.
    Falcon3,
    /// Falcon-E and others (ChatML): `<|im_start|>user`, a line break, text, `<|im_end|>`, a line break.
    ChatMl,
    /// No markers at all: for base models, which complete text.
    Plain,
}

impl ChatFormat {
    /// Every format.
    pub const ALL: [ChatFormat; 5] = [
        ChatFormat::BitNet2b4t,
        ChatFormat::Llama3,
        ChatFormat::Falcon3,
        ChatFormat::ChatMl,
        ChatFormat::Plain,
    ];

    /// The format's name for `--chat-template`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ChatFormat::BitNet2b4t => "bitnet",
            ChatFormat::Llama3 => "llama3",
            ChatFormat::Falcon3 => "falcon3",
            ChatFormat::ChatMl => "chatml",
            ChatFormat::Plain => "plain",
        }
    }

    /// The format a model wants, by its template and vocabulary; `Plain` if nothing is recognised.
    #[must_use]
    pub fn detect(tokenizer: &Tokenizer) -> ChatFormat {
        let has = |name: &str| tokenizer.special_id(name).is_some();
        if let Some(template) = tokenizer.chat_template() {
            let says = |text: &str| template.contains(text);
            // The published GGUF says BITNETAssistant; its model card's template capitalizes the role's name.
            if has("<|eot_id|>") && (says("BITNET") || (says("capitalize") && says("<|eot_id|>"))) {
                return ChatFormat::BitNet2b4t;
            }
            if has("<|start_header_id|>") && has("<|eot_id|>") && says("<|start_header_id|>") {
                return ChatFormat::Llama3;
            }
            if has("<|im_start|>") && has("<|im_end|>") && says("<|im_start|>") {
                return ChatFormat::ChatMl;
            }
            // Templates spell the roles out, or put them together from `<|` and the role's name.
            if says("<|assistant|>") && says("<|user|>") && has("<|endoftext|>") {
                return ChatFormat::Falcon3;
            }
        }
        // Without a template: Llama 3's vocabulary belongs to 2B-4T if the file names no cutting rule,
        // because that model's converter never wrote one.
        let is_llama3 = has("<|begin_of_text|>") && has("<|start_header_id|>") && has("<|eot_id|>");
        // Ends of turns, but no headers to begin them with: that writes 2B-4T's format and no other.
        let only_ends = has("<|eot_id|>") && !has("<|start_header_id|>");
        match tokenizer.pre() {
            _ if only_ends => ChatFormat::BitNet2b4t,
            None if is_llama3 => ChatFormat::BitNet2b4t,
            Some(_) if is_llama3 => ChatFormat::Llama3,
            _ => ChatFormat::Plain,
        }
    }

    /// The ids of a whole conversation, ready for the model to reply: the beginning-of-text token if the model
    /// wants one, every message, and the beginning of the reply.
    ///
    /// # Errors
    /// If the vocabulary lacks one of the format's markers, or a message cannot be encoded.
    pub fn render(self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<TokenId>> {
        let mut script = Script { format: self, tokenizer, pieces: Vec::new() };
        if tokenizer.adds_bos() {
            script.pieces.extend(tokenizer.bos().map(Piece::Special));
        }
        script.messages(messages)?;
        tokenizer.encode_pieces(&script.pieces)
    }

    /// The ids that follow a reply already in the context: its end, `messages`, and the beginning of the next
    /// reply. `ended`: the reply's own [`reply_end`](Self::reply_end) is in the context, too.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn next_turn(self, tokenizer: &Tokenizer, messages: &[Message], ended: bool) -> Result<Vec<TokenId>> {
        let mut script = Script { format: self, tokenizer, pieces: Vec::new() };
        script.reply_end(!ended)?;
        script.messages(messages)?;
        tokenizer.encode_pieces(&script.pieces)
    }

    /// The token that ends a reply inside a conversation.
    #[must_use]
    pub fn reply_end(self, tokenizer: &Tokenizer) -> Option<TokenId> {
        match self {
            ChatFormat::BitNet2b4t | ChatFormat::Llama3 => tokenizer.special_id("<|eot_id|>"),
            ChatFormat::Falcon3 => tokenizer.special_id("<|endoftext|>").or(tokenizer.eos()),
            ChatFormat::ChatMl => tokenizer.special_id("<|im_end|>"),
            ChatFormat::Plain => None,
        }
    }

    /// Every token at which a reply is over, in rising order.
    #[must_use]
    pub fn end_tokens(self, tokenizer: &Tokenizer) -> Vec<TokenId> {
        let mut ends = tokenizer.end_tokens().to_vec();
        ends.extend(self.reply_end(tokenizer));
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// Texts at which a reply is over: markers that the vocabulary spells as ordinary text.
    #[must_use]
    pub fn stop_strings(self, tokenizer: &Tokenizer) -> Vec<String> {
        let markers: &[&str] = match self {
            ChatFormat::Falcon3 => &["<|system|>", "<|user|>", "<|assistant|>"],
            _ => &[],
        };
        markers.iter().filter(|name| tokenizer.special_id(name).is_none()).map(|&name| name.into()).collect()
    }
}

impl fmt::Display for ChatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ChatFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<ChatFormat> {
        ChatFormat::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| Error::Invalid {
            what: format!("--chat-template {name}"),
            reason: format!("expected one of {}", ChatFormat::ALL.map(ChatFormat::name).join(", ")),
        })
    }
}

/// A conversation being written.
struct Script<'a> {
    format: ChatFormat,
    tokenizer: &'a Tokenizer,
    pieces: Vec<Piece<'a>>,
}

impl<'a> Script<'a> {
    /// All messages, and the beginning of the reply.
    fn messages(&mut self, messages: &'a [Message]) -> Result<()> {
        for (i, message) in messages.iter().enumerate() {
            self.message(message, i + 1 == messages.len())?;
        }
        match self.format {
            ChatFormat::BitNet2b4t => self.text("Assistant: "),
            ChatFormat::Llama3 | ChatFormat::Falcon3 | ChatFormat::ChatMl => self.header(Role::Assistant)?,
            ChatFormat::Plain => {}
        }
        Ok(())
    }

    fn message(&mut self, message: &'a Message, is_last: bool) -> Result<()> {
        let Message { role, content } = message;
        match self.format {
            ChatFormat::BitNet2b4t | ChatFormat::Llama3 => {
                self.header(*role)?;
                self.text(content.trim());
                self.reply_end(true)
            }
            ChatFormat::ChatMl => {
                self.header(*role)?;
                self.text(content);
                self.reply_end(true)
            }
            ChatFormat::Falcon3 => {
                self.header(*role)?;
                self.text(content);
                if *role == Role::Assistant {
                    return self.reply_end(true);
                }
                self.text("\n");
                Ok(())
            }
            ChatFormat::Plain => {
                self.text(content);
                if !is_last {
                    self.text("\n");
                }
                Ok(())
            }
        }
    }

    /// What stands before a message.
    fn header(&mut self, role: Role) -> Result<()> {
        match self.format {
            ChatFormat::BitNet2b4t => {
                self.text(role.title());
                self.text(": ");
            }
            ChatFormat::Llama3 => {
                self.marker("<|start_header_id|>")?;
                self.text(role.lower());
                self.marker("<|end_header_id|>")?;
                self.text("\n\n");
            }
            ChatFormat::Falcon3 => {
                let name = match role {
                    Role::System => "<|system|>",
                    Role::User => "<|user|>",
                    Role::Assistant => "<|assistant|>",
                };
                match self.tokenizer.special_id(name) {
                    Some(id) => self.pieces.push(Piece::Special(id)),
                    None => self.text(name),
                }
                self.text("\n");
            }
            ChatFormat::ChatMl => {
                self.marker("<|im_start|>")?;
                self.text(role.lower());
                self.text("\n");
            }
            ChatFormat::Plain => {}
        }
        Ok(())
    }

    /// What stands after a reply (and in most formats after every message): its token if `with_token`, and
    /// the text between that and the next message.
    fn reply_end(&mut self, with_token: bool) -> Result<()> {
        if with_token {
            match (self.format.reply_end(self.tokenizer), self.format) {
                (Some(id), _) => self.pieces.push(Piece::Special(id)),
                (None, ChatFormat::BitNet2b4t | ChatFormat::Llama3) => self.marker("<|eot_id|>")?,
                (None, ChatFormat::Falcon3) => self.marker("<|endoftext|>")?,
                (None, ChatFormat::ChatMl) => self.marker("<|im_end|>")?,
                (None, ChatFormat::Plain) => {}
            }
        }
        match self.format {
            ChatFormat::Falcon3 | ChatFormat::ChatMl | ChatFormat::Plain => self.text("\n"),
            ChatFormat::BitNet2b4t | ChatFormat::Llama3 => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &'a str) {
        self.pieces.push(Piece::text(text));
    }

    /// A control token that the format cannot do without.
    fn marker(&mut self, name: &str) -> Result<()> {
        let id = self.tokenizer.special_id(name).ok_or_else(|| Error::Invalid {
            what: format!("--chat-template {}", self.format),
            reason: format!(
                "the model's vocabulary has no control token {name}; plain works with every model"
            ),
        })?;
        self.pieces.push(Piece::Special(id));
        Ok(())
    }
}
