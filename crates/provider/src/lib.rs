//! Calls to LLM providers. A generation is one streamed request, its events
//! translated to [`ProviderEvent`]s, and exactly one [`Terminal`] per stream.
//! The calls of [`storage`] store and delete files.
//! A call has *started* once the whole request was handed to an established
//! connection (QUOTA-61). [`StartedFlag`] shows this even if the call is
//! dropped half-way. Dropping a [`ProviderStream`], or the future that opens
//! one, closes the connection at once (PLAT-105, TURN-48).

mod adapter;
mod client;
mod event;
mod failure;
mod mask;
mod request;
pub mod sse;
pub mod storage;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;

pub use adapter::Translator;
pub use client::{
    CaFileError, ChosenBy, ClientSettings, FetchError, FetchLimits, Post, PostAnswer, PostError,
    ProviderClient, WholeAnswer, check_ca_file, encrypt,
};
pub use event::{Citation, Completion, DeltaKind, ProviderEvent, ResponseId, Terminal};
pub use failure::{Failure, FailureKind, TimeoutStage};
pub use request::{
    FileSearch, InputMessage, ProviderCall, RequestMetadata, RequestType, Role, StartedFlag, Tools,
    TurnRequest, WebSearch, system_hash, user_hash,
};
pub use storage::{
    BodyError, FileUpload, ProviderFileId, StorageCall, StorageError, VectorStoreId,
};
pub use stream::ProviderStream;
