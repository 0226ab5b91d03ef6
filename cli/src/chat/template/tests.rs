//! Templates as well-known families write them, against what they must render to.

use super::*;

const CHATML: &str = include_str!("../../../tests/templates/chatml.jinja");
const LLAMA3: &str = include_str!("../../../tests/templates/llama3.jinja");
const GRANITE: &str = include_str!("../../../tests/templates/granite.jinja");
const MISTRAL: &str = include_str!("../../../tests/templates/mistral.jinja");

/// 5 March 2024, 12:00 UTC.
const NOW: i64 = 1_709_640_000;

fn template(source: &str) -> Template {
    let token = |name: &str| Some(name.to_owned());
    let format =
        ChatFormat { template: source.to_owned(), bos_token: token("<s>"), eos_token: token("</s>") };
    Template::new(&format).unwrap()
}

fn render(source: &str, messages: &[(Role, &str)], answer: bool) -> Result<String> {
    let messages: Vec<_> = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    template(source).render(&messages, answer, NOW)
}

const SYSTEM: (Role, &str) = (Role::System, " Be brief. ");
const QUESTION: (Role, &str) = (Role::User, "Hi there ");
const ANSWER: (Role, &str) = (Role::Assistant, "Hello!");

#[test]
fn chatml() {
    assert_eq!(
        render(CHATML, &[SYSTEM, QUESTION, ANSWER, QUESTION], true).unwrap(),
        "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi there <|im_end|>\n\
         <|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nHi there <|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn llama3_trims_and_writes_the_date() {
    assert_eq!(
        render(LLAMA3, &[SYSTEM, QUESTION], true).unwrap(),
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 05 Mar 2024\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi there<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn granite_and_falcon_h1_use_methods_of_python() {
    let thought = (Role::Assistant, "<think>hm</think>\nHello!");
    assert_eq!(
        render(GRANITE, &[SYSTEM, QUESTION, thought, QUESTION], true).unwrap(),
        "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n\
         <|start_of_role|>user<|end_of_role|>Hi there <|end_of_text|>\n\
         <|start_of_role|>assistant<|end_of_role|>Hello!<|end_of_text|>\n\
         <|start_of_role|>user<|end_of_role|>Hi there <|end_of_text|>\n\
         <|start_of_role|>assistant<|end_of_role|>"
    );
    assert!(render(GRANITE, &[QUESTION], false).unwrap().contains("You are a helpful assistant."));
}

#[test]
fn mistral_refuses_what_it_does_not_know() {
    assert_eq!(
        render(MISTRAL, &[QUESTION, ANSWER, QUESTION], true).unwrap(),
        "<s>[INST] Hi there  [/INST]Hello!</s>[INST] Hi there  [/INST]"
    );
    let refusal = render(MISTRAL, &[SYSTEM, QUESTION], true).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "the model's chat template refuses the conversation: Conversation roles must alternate \
         user/assistant/user/assistant/..."
    );
}

#[test]
fn json_and_loop_controls_are_as_in_python() {
    let source = "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content | tojson }}{% endfor %}";
    assert_eq!(render(source, &[SYSTEM, (Role::User, "<a> 'क'")], true).unwrap(), "\"<a> 'क'\"");
    let absent = Template::new(&ChatFormat {
        template: "{{ bos_token }}.{{ nothing }}".to_owned(),
        bos_token: None,
        eos_token: None,
    });
    assert_eq!(absent.unwrap().render(&[], true, NOW).unwrap(), ".");
}

#[test]
fn templates_that_are_broken_or_endless_are_refused() {
    let format =
        |template: &str| ChatFormat { template: template.to_owned(), bos_token: None, eos_token: None };
    let broken = Template::new(&format("{% for %}")).err().unwrap().to_string();
    assert!(broken.contains("cannot be used") && broken.contains("--meta"), "{broken}");
    let endless = "{% set ns = namespace(t='x') %}{% for i in range(99999) %}{% for j in range(99999) %}\
                   {% set ns.t = ns.t ~ ns.t %}{% endfor %}{% endfor %}";
    let error = render(endless, &[], true).unwrap_err().to_string();
    assert!(error.contains("fuel"), "{error}");
}
