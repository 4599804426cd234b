//! The data plane calls `litellm`, a proxy, which calls the scripted provider.

use super::cases::CASES;
use super::page::{Page, pin};
use super::servers::Servers;
use crate::python_tool::PythonTool;

const LITELLM: PythonTool = PythonTool {
    directory: "litellm",
    program: "litellm",
    requirements: "tests/litellm/requirements.txt",
};

/// Why streamed and stored text may differ.
const THINK: &str = "\
One answer of vLLM is stored differently from how it was streamed: reasoning that begins without `<think>`, because
the chat template of the model already holds the opening tag, and that ends with `</think>`. minichat holds text back
only while more of the answer has already arrived. To hold all of it back would end streaming for every model that does
not reason. So a slow answer shows its reasoning as text first. When the closing tag arrives, that text is removed from
the answer: it is not stored, not replayed and not part of later prompts. To avoid this, start vLLM with
`--reasoning-parser`, which sends reasoning as events of its own.
";

pub(super) fn run(page: &mut Page) -> anyhow::Result<()> {
    let program = LITELLM.ensure()?;
    let servers = Servers::start(&program)?;
    let words = format!(
        "`{}` stands between the data plane and the scripted provider. Each message is sent through both. The streamed\n\
         text must be the text in the database, and the chat must accept another message.\n\n{THINK}",
        pin(LITELLM.requirements, "litellm")?
    );
    let columns = ["Protocol", "Model", "Message", "Result"];
    page.section("A proxy", &words, &columns);
    for case in CASES {
        let (model, message) = (format!("`{}`", case.model), format!("`{}`", case.message));
        page.row(
            &[case.protocol, &model, &message],
            case.play(servers.client()),
        );
    }
    Ok(())
}
