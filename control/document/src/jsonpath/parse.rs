//! From text to steps. Every error says where in the text it is.

use super::evaluate::{Comparison, Condition, Operand, Part, Path, Step, Template};

/// Filters and unions may nest; nobody nests them deeper.
const DEEPEST: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("jsonpath {text:?}: {problem} at {}", if rest.is_empty() { "the end".to_owned() } else { format!("{rest:?}") })]
pub struct SyntaxError {
    text: String,
    problem: &'static str,
    rest: String,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut parser = Parser { text, rest: text, depth: 0 };
        let parts = parser.parts(false)?;
        Ok(Self { parts })
    }
}

impl Path {
    /// `{.metadata.name}`, `.metadata.name` or `metadata.name`.
    pub fn parse_relaxed(text: &str) -> Result<Self, SyntaxError> {
        let bare = text.trim();
        let bare = bare.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(bare);
        let dotted =
            if bare.starts_with(['.', '$', '@', '[']) { bare.to_owned() } else { format!(".{bare}") };
        let mut parser = Parser { text, rest: &dotted, depth: 0 };
        let path = parser.path()?;
        if parser.rest.trim().is_empty() {
            Ok(path)
        } else {
            Err(parser.wrong("something else follows the path"))
        }
    }
}

struct Parser<'t, 'r> {
    text: &'t str,
    rest: &'r str,
    depth: usize,
}

impl<'r> Parser<'_, 'r> {
    fn wrong(&self, problem: &'static str) -> SyntaxError {
        SyntaxError { text: self.text.to_owned(), problem, rest: self.rest.chars().take(20).collect() }
    }

    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        true
    }

    fn expect(&mut self, token: &str, problem: &'static str) -> Result<(), SyntaxError> {
        if self.take(token) { Ok(()) } else { Err(self.wrong(problem)) }
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Text and actions, up to the end or, inside a range, up to its `{end}`.
    fn parts(&mut self, inside_range: bool) -> Result<Vec<Part>, SyntaxError> {
        let mut parts = Vec::new();
        while !self.rest.is_empty() {
            let brace = self.rest.find('{').unwrap_or(self.rest.len());
            if brace > 0 {
                parts.push(Part::Text(self.rest[..brace].to_owned()));
                self.rest = &self.rest[brace..];
                continue;
            }
            self.expect("{", "expected an action")?;
            self.space();
            if self.keyword("end") {
                self.close()?;
                if inside_range {
                    return Ok(parts);
                }
                return Err(self.wrong("an end without a range"));
            }
            if self.keyword("range") {
                self.space();
                let over = self.path()?;
                self.close()?;
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err(self.wrong("nested too deep"));
                }
                let body = self.parts(true)?;
                self.depth -= 1;
                parts.push(Part::Range(over, body));
                continue;
            }
            parts.push(self.action()?);
            self.close()?;
        }
        if inside_range { Err(self.wrong("a range without an end")) } else { Ok(parts) }
    }

    fn keyword(&mut self, word: &str) -> bool {
        let ends = |rest: &str| rest.starts_with(|next: char| next.is_whitespace() || "}.@$[".contains(next));
        self.rest.strip_prefix(word).is_some_and(ends) && self.take(word)
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        self.space();
        self.expect("}", "expected }")
    }

    fn action(&mut self) -> Result<Part, SyntaxError> {
        match self.rest.chars().next() {
            Some('"' | '\'') => Ok(Part::Text(self.quoted()?)),
            Some('.' | '$' | '@' | '[') => Ok(Part::Path(self.path()?)),
            Some(first) if first.is_ascii_digit() || first == '-' => {
                let end = self.rest.find(|one: char| !one.is_ascii_digit() && !"-.".contains(one));
                let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                Ok(Part::Text(number.to_owned()))
            }
            Some('}') => Ok(Part::Text(String::new())),
            _ => Err(self.wrong("expected a path, a quoted text, range or end (paths begin with a dot)")),
        }
    }

    fn path(&mut self) -> Result<Path, SyntaxError> {
        let from_root = self.take("$");
        if !from_root {
            self.take("@");
        }
        let mut steps = Vec::new();
        loop {
            if self.take("..") {
                steps.push(Step::Recursive);
                if self.rest.starts_with('[') {
                    continue;
                }
                steps.push(self.field()?);
            } else if self.take(".") {
                // `.` alone is the object itself, and `.[0]` is `[0]`.
                if !(self.at_boundary() || self.rest.starts_with('[')) {
                    steps.push(self.field()?);
                }
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                return Ok(Path { from_root, steps });
            }
        }
    }

    fn at_boundary(&self) -> bool {
        self.rest.chars().next().is_none_or(|next| next.is_whitespace() || "})],=!<>".contains(next))
    }

    /// A name, in which a backslash takes the next character as it is: `.metadata.labels.app\.kubernetes\.io/name`.
    fn field(&mut self) -> Result<Step, SyntaxError> {
        if self.take("*") {
            return Ok(Step::Wildcard);
        }
        let mut name = String::new();
        let mut characters = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some((_, escaped)) => name.push(escaped),
                    None => return Err(self.wrong("a backslash with nothing after it")),
                },
                boundary if boundary.is_whitespace() || ".[](){},=!<>\"'".contains(boundary) => {
                    end = at;
                    break;
                }
                other => name.push(other),
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() { Err(self.wrong("expected a field's name")) } else { Ok(Step::Field(name)) }
    }

    /// What is between [ and ]; the [ is taken.
    fn bracket(&mut self) -> Result<Step, SyntaxError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong("nested too deep"));
        }
        self.space();
        let step = if self.take("?(") { self.filter()? } else { self.choices()? };
        self.space();
        self.expect("]", "expected ]")?;
        self.depth -= 1;
        Ok(step)
    }

    fn choices(&mut self) -> Result<Step, SyntaxError> {
        let mut choices = Vec::new();
        loop {
            self.space();
            choices.push(self.choice()?);
            self.space();
            if !self.take(",") {
                break;
            }
        }
        match choices.pop() {
            Some(only) if choices.is_empty() => Ok(only),
            Some(last) => {
                choices.push(last);
                Ok(Step::Union(choices))
            }
            None => Err(self.wrong("expected a choice")),
        }
    }

    fn choice(&mut self) -> Result<Step, SyntaxError> {
        match self.rest.chars().next() {
            Some('*') => {
                self.take("*");
                Ok(Step::Wildcard)
            }
            Some('"' | '\'') => {
                let name = self.quoted()?;
                let mut inside = Parser { text: self.text, rest: &format!(".{name}"), depth: self.depth };
                let path = inside.path().ok().filter(|_| inside.rest.is_empty());
                Ok(Step::Quoted { name, path })
            }
            Some('.' | '@' | '$') => Ok(Step::Path(self.path()?)),
            _ => self.slice(),
        }
    }

    fn slice(&mut self) -> Result<Step, SyntaxError> {
        let start = self.number()?;
        if !self.take(":") {
            return start
                .map(Step::Index)
                .ok_or_else(|| self.wrong("expected an index, a name in quotes, or *"));
        }
        let end = self.number()?;
        let step = if self.take(":") { self.number()? } else { None };
        match step {
            Some(step) if step < 1 => Err(self.wrong("a slice's step must be positive")),
            step => Ok(Step::Slice { start, end, step: step.unwrap_or(1) }),
        }
    }

    fn number(&mut self) -> Result<Option<i64>, SyntaxError> {
        let end = self.rest.find(|one: char| !one.is_ascii_digit() && one != '-').unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        if digits.is_empty() {
            return Ok(None);
        }
        let number = digits.parse().map_err(|_| self.wrong("expected a number"))?;
        self.rest = rest;
        Ok(Some(number))
    }

    /// `@.name == "x")`, or `@.name)`: that there is one.
    fn filter(&mut self) -> Result<Step, SyntaxError> {
        self.space();
        let left = self.operand()?;
        self.space();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        let comparison = comparisons.into_iter().find(|(token, _)| self.take(token));
        let against = match comparison {
            Some((_, comparison)) => {
                self.space();
                Some((comparison, self.operand()?))
            }
            None => None,
        };
        self.space();
        self.expect(")", "expected ), or one of == != < <= > >=")?;
        Ok(Step::Filter(Box::new(Condition { left, against })))
    }

    fn operand(&mut self) -> Result<Operand, SyntaxError> {
        match self.rest.chars().next() {
            Some('"' | '\'') => Ok(Operand::Literal(self.quoted()?.into())),
            Some('.' | '@' | '$') => Ok(Operand::Path(self.path()?)),
            _ => {
                let end = self.rest.find(|one: char| one.is_whitespace() || ")=!<>".contains(one));
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                let literal = serde_json::from_str::<serde_json::Value>(word);
                let literal =
                    literal.ok().filter(|value| value.is_number() || value.is_boolean() || value.is_null());
                let literal =
                    literal.ok_or_else(|| self.wrong("expected a path, a quoted text or a number"))?;
                self.rest = rest;
                Ok(Operand::Literal(literal))
            }
        }
    }

    /// A text in quotes of either kind, with Go's escapes.
    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let mut characters = self.rest.char_indices();
        let quote = characters.next().map(|(_, quote)| quote);
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            if Some(character) == quote {
                self.rest = &self.rest[at + character.len_utf8()..];
                return Ok(text);
            }
            if character != '\\' {
                text.push(character);
                continue;
            }
            match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some(escaped @ ('\\' | '"' | '\'' | '/')) => text.push(escaped),
                _ => {
                    return Err(
                        self.wrong("an escape that does not exist (there are \\n \\t \\r \\\\ \\\" \\')")
                    );
                }
            }
        }
        Err(self.wrong("a quote that does not end"))
    }
}
