//! The tools of a turn: which of them the effective model can be offered (CONT-100),
//! and what its provider is told of them (CONT-33).

use minichat_config::{Model, TenantConfig};
use minichat_core::quota::ToolSupport;
use minichat_core::quota::estimate::OfferedTools;
use minichat_core::stream::ToolEvent;
use minichat_provider::{FileSearch, Tools, WebSearch};
use minichat_store::{AdmissionFacts, FileAtProvider, ToolFiles};

/// Whether the chat has files for tools, and any model of the tenant can use them.
pub(super) fn need_files(config: &TenantConfig, facts: &AdmissionFacts) -> bool {
    facts.has_tool_files
        && config.models_enabled().any(|model| {
            let tools = model.tool_support;
            tools.file_search || tools.code_interpreter
        })
}

/// The tools that requests to `model` may offer in a chat with `files`: those that it
/// supports, that its provider runs (CONT-37), and whose files are at this provider
/// (CONT-38). Switches are not looked at.
pub(super) fn usable(config: &TenantConfig, model: &Model, files: &ToolFiles) -> ToolSupport {
    let provider = config.provider_of(model);
    if provider.is_none_or(|provider| !provider.kind.runs_tools()) {
        return ToolSupport::default();
    }
    let is_there = |file: &FileAtProvider| is_at(config, model, file);
    let supported = model.tool_support;
    ToolSupport {
        web_search: supported.web_search,
        file_search: supported.file_search && files.vector_store.as_ref().is_some_and(is_there),
        code_interpreter: supported.code_interpreter && files.code_files.iter().any(is_there),
    }
}

/// Whether the effective model's provider holds `file`.
fn is_at(config: &TenantConfig, model: &Model, file: &FileAtProvider) -> bool {
    let holder = config.provider_of_storage(&file.backend);
    holder.is_some_and(|holder| holder.id == model.provider_id)
}

/// The tools of one request.
#[derive(Debug, Default)]
pub(super) struct PlannedTools {
    /// The id of the chat's store at the provider.
    vector_store_id: Option<String>,
    has_web_search: bool,
    /// The ids at the provider of the files that code can read.
    code_file_ids: Vec<String>,
}

impl PlannedTools {
    /// The tools that are `offered` to `model`, with the ids that they need.
    pub(super) fn new(
        config: &TenantConfig,
        model: &Model,
        offered: OfferedTools,
        files: &ToolFiles,
    ) -> Self {
        let store = files.vector_store.as_ref().filter(|_| offered.file_search);
        let code_files = files.code_files.iter();
        let code_files =
            code_files.filter(|file| offered.code_interpreter && is_at(config, model, file));
        Self {
            vector_store_id: store.map(|store| store.id.clone()),
            has_web_search: offered.web_search,
            code_file_ids: code_files.map(|file| file.id.clone()).collect(),
        }
    }

    pub(super) const fn offered(&self) -> OfferedTools {
        OfferedTools {
            web_search: self.has_web_search,
            file_search: self.vector_store_id.is_some(),
            code_interpreter: !self.code_file_ids.is_empty(),
        }
    }

    /// The event without ids that only the provider and this process know (CONT-39):
    /// code may print the names of its files.
    pub(super) fn without_ids(&self, mut event: ToolEvent) -> ToolEvent {
        if let Some(output) = &mut event.details.output {
            for id in self.vector_store_id.iter().chain(&self.code_file_ids) {
                if output.contains(id.as_str()) {
                    *output = output.replace(id.as_str(), "[provider_id]");
                }
            }
        }
        event
    }

    /// The tools for the provider.
    pub(super) fn of_request<'a>(&'a self, model: &Model) -> Tools<'a> {
        let store = self.vector_store_id.as_deref();
        Tools {
            file_search: store.map(|vector_store_id| FileSearch {
                vector_store_id,
                max_num_results: model.max_num_results,
            }),
            web_search: self.has_web_search.then_some(WebSearch {
                context_size: model.web_search_context_size,
            }),
            code_interpreter_files: &self.code_file_ids,
        }
    }
}
