//! The body of an objects file: sections, payloads, and the checks of what they
//! say. What is accepted has one encoding.
#![no_main]

use icecore_images::objects;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let Ok(checkpoint) = objects::decode(body) else {
        return;
    };
    if checkpoint.check().is_ok() {
        let again = objects::encode(&checkpoint).expect("what was decoded can be encoded");
        let decoded = objects::decode(&again).expect("what was encoded can be decoded");
        assert_eq!(decoded, checkpoint);
    }
});
