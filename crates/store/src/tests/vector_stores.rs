//! One vector store per chat, whoever creates it.

use minichat_core::{ChatId, UserId};

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{ChatVectorStore, StoreError, VectorStorePlace, VectorStoreReserve};

async fn reserve(db: &Db, user: UserId, chat: ChatId) -> VectorStoreReserve {
    let tenant = db.tenant;
    let reserved: Result<_, StoreError> = db
        .store
        .write(move |tx| {
            Box::pin(async move {
                tx.vector_store_reserve(tenant, user, chat, "files", NOON)
                    .await
            })
        })
        .await;
    reserved.unwrap()
}

async fn place(db: &Db) -> VectorStorePlace {
    match reserve(db, db.user, db.chat).await {
        VectorStoreReserve::Reserved(place) => place,
        other => panic!("{other:?}"),
    }
}

async fn set(db: &Db, place: VectorStorePlace, id: &'static str) -> bool {
    let set: Result<_, StoreError> = db
        .store
        .write(move |tx| Box::pin(async move { tx.vector_store_set(place, id).await }))
        .await;
    set.unwrap()
}

async fn get(db: &Db) -> Option<ChatVectorStore> {
    let (tenant, chat) = (db.tenant, db.chat);
    let got: Result<_, StoreError> = db
        .store
        .read(move |tx| Box::pin(async move { tx.vector_store_get(tenant, chat).await }))
        .await;
    got.unwrap()
}

async fn delete_chat(db: &Db) -> bool {
    let (tenant, user, chat) = (db.tenant, db.user, db.chat);
    let deleted: Result<_, StoreError> = db
        .store
        .write(move |tx| Box::pin(async move { tx.chat_delete(tenant, user, chat, NOON).await }))
        .await;
    deleted.unwrap()
}

on_both_databases! {
    /// CONT-61, PLAT-11
    async fn of_several_at_once_one_creates_the_store(db: Db) {
        let attempts = (0..8).map(|_| reserve(&db, db.user, db.chat));
        let attempts = futures_util::future::join_all(attempts).await;
        let being_created = ChatVectorStore {
            backend: "files".to_owned(),
            vector_store_id: None,
        };
        let (mut reserved, mut taken) = (0, 0);
        for attempt in attempts {
            match attempt {
                VectorStoreReserve::Reserved(_) => reserved += 1,
                VectorStoreReserve::Taken(found) if found == being_created => taken += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((reserved, taken), (1, 7));
    }

    /// CONT-61: all lookups filter on tenant, user and chat.
    async fn nobody_else_reserves_in_the_chat(db: Db) {
        let foreign = reserve(&db, UserId::random(), db.chat).await;
        assert_eq!(foreign, VectorStoreReserve::NoChat);
        let unknown = reserve(&db, db.user, ChatId::random()).await;
        assert_eq!(unknown, VectorStoreReserve::NoChat);
        place(&db).await;
        let foreign = reserve(&db, UserId::random(), db.chat).await;
        assert_eq!(foreign, VectorStoreReserve::NoChat);
    }

    /// CONT-61
    async fn an_id_is_set_once_and_a_place_given_back_only_without_one(db: Db) {
        let first = place(&db).await;
        db.write(move |tx| tx.vector_store_release(first)).await.unwrap();
        assert_eq!(get(&db).await, None);
        assert!(!set(&db, first, "vs_late").await, "the row is gone");
        let second = place(&db).await;
        assert!(set(&db, second, "vs_1").await);
        assert!(!set(&db, second, "vs_2").await, "it has an id");
        db.write(move |tx| tx.vector_store_release(second)).await.unwrap();
        let (tenant, chat) = (db.tenant, db.chat);
        db.write(move |tx| tx.vector_store_count_file(tenant, chat)).await.unwrap();
        let found = get(&db).await.unwrap();
        assert_eq!(found.vector_store_id.as_deref(), Some("vs_1"));
        let at: Result<_, StoreError> = db
            .store
            .read(move |tx| Box::pin(async move { tx.vector_store_id_at(second).await }))
            .await;
        assert_eq!(at.unwrap().as_deref(), Some("vs_1"));
        let counted = "SELECT file_count FROM chat_vector_stores WHERE chat_id = $1";
        assert_eq!(db.count(counted, params![chat]).await, 1);
    }

    /// CONT-61: "only while the chat is live", also if both happen at once.
    async fn no_store_is_reserved_in_a_chat_after_its_deletion(db: Db) {
        let (reserved, deleted) = tokio::join!(reserve(&db, db.user, db.chat), delete_chat(&db));
        assert!(deleted);
        let is_there = get(&db).await.is_some();
        assert_eq!(matches!(reserved, VectorStoreReserve::Reserved(_)), is_there);
        assert_eq!(reserve(&db, db.user, db.chat).await, VectorStoreReserve::NoChat);
        // The creator of a store can still leave it to the clean-up.
        if let VectorStoreReserve::Reserved(place) = reserved {
            assert!(set(&db, place, "vs_1").await);
        }
    }
}
