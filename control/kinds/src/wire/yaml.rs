//! What a YAML document would cost, before it is loaded.
//!
//! The library that loads YAML keeps all events of a document before anybody looks at how deep they are,
//! and its parser looks at all open brackets for each token. So the same parser is asked here for one
//! event after the other, up to where there are too many or one is too deep. What is malformed is not
//! told here: loading it will.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use libyaml_rs as sys;

use super::budget::Budget;
use super::depth::MAX_DEPTH;

/// The parser compares each `%TAG` with all others; nobody needs many.
const MAX_TAG_DIRECTIVES: usize = 100;

/// Why a document is not to be loaded.
pub(super) fn check(body: &[u8], budget: &Budget) -> Result<(), String> {
    if body.windows(4).filter(|four| *four == b"%TAG").count() > MAX_TAG_DIRECTIVES {
        return Err("the document has too many %TAG directives".to_owned());
    }
    let mut depth = 0_usize;
    let mut events = Events::of(body);
    while let Some(event) = events.next() {
        match event {
            sys::YAML_SEQUENCE_START_EVENT | sys::YAML_MAPPING_START_EVENT => depth += 1,
            sys::YAML_SEQUENCE_END_EVENT | sys::YAML_MAPPING_END_EVENT => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("the object is nested deeper than {MAX_DEPTH} levels"));
        }
        // An event takes about as much as two values.
        budget.value()?;
        budget.value()?;
    }
    Ok(())
}

/// The events of a document, up to its end or to where it is malformed.
struct Events<'a> {
    parser: Box<MaybeUninit<sys::yaml_parser_t>>,
    _body: PhantomData<&'a [u8]>,
}

impl<'a> Events<'a> {
    fn of(body: &'a [u8]) -> Self {
        let mut parser = Box::new(MaybeUninit::uninit());
        // SAFETY: The parser is initialized before it is used, stays where it is, and reads `body`, which
        // lives as long as `Events`.
        unsafe {
            let at = parser.as_mut_ptr();
            assert!(sys::yaml_parser_initialize(at).ok, "there is no memory for a parser");
            sys::yaml_parser_set_encoding(at, sys::YAML_UTF8_ENCODING);
            sys::yaml_parser_set_input_string(at, body.as_ptr(), body.len() as u64);
        }
        Events { parser, _body: PhantomData }
    }

    fn next(&mut self) -> Option<sys::yaml_event_type_t> {
        let mut event = MaybeUninit::uninit();
        // SAFETY: The parser is initialized. It sets the event, which is read only if that did not fail,
        // and given back once.
        let type_ = unsafe {
            if !sys::yaml_parser_parse(self.parser.as_mut_ptr(), event.as_mut_ptr()).ok {
                return None;
            }
            let type_ = (*event.as_ptr()).type_;
            sys::yaml_event_delete(event.as_mut_ptr());
            type_
        };
        (type_ != sys::YAML_STREAM_END_EVENT && type_ != sys::YAML_NO_EVENT).then_some(type_)
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        // SAFETY: It is initialized, and nobody uses it any more.
        unsafe { sys::yaml_parser_delete(self.parser.as_mut_ptr()) }
    }
}
