//! One vector store per chat, whoever creates it.

use minichat_core::{ChatId, TenantId, UserId};

use super::fixture::NOON;
use super::{Db, on_both_databases};
use crate::value::params;
use crate::{ChatVectorStore, StoreError, VectorStorePlace, VectorStoreReserve};

/// A place in the chat of `db`.
fn place(db: &Db) -> VectorStorePlace {
    VectorStorePlace::new(db.tenant, db.user, db.chat)
}

async fn reserve(db: &Db, place: VectorStorePlace) -> VectorStoreReserve {
    let reserved: Result<_, StoreError> = db
        .store
        .write(move |tx| {
            Box::pin(async move { tx.vector_store_reserve(place, "files", NOON).await })
        })
        .await;
    reserved.unwrap()
}

async fn reserved(db: &Db) -> VectorStorePlace {
    let place = place(db);
    assert_eq!(reserve(db, place).await, VectorStoreReserve::Reserved);
    place
}

/// What is recorded at a place, which is given back if there is nothing.
async fn close(db: &Db, place: VectorStorePlace) -> Option<String> {
    let recorded: Result<_, StoreError> = db
        .store
        .write(move |tx| Box::pin(async move { tx.vector_store_close(place).await }))
        .await;
    recorded.unwrap()
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
        let attempts = (0..8).map(|_| reserve(&db, place(&db)));
        let attempts = futures_util::future::join_all(attempts).await;
        let being_created = ChatVectorStore {
            backend: "files".to_owned(),
            vector_store_id: None,
        };
        let (mut reserved, mut taken) = (0, 0);
        for attempt in attempts {
            match attempt {
                VectorStoreReserve::Reserved => reserved += 1,
                VectorStoreReserve::Taken(found) if found == being_created => taken += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((reserved, taken), (1, 7));
    }

    /// CONT-61: all lookups filter on tenant, user and chat.
    async fn nobody_else_reserves_in_the_chat(db: Db) {
        let of = |user, chat| VectorStorePlace::new(db.tenant, user, chat);
        let foreign = reserve(&db, of(UserId::random(), db.chat)).await;
        assert_eq!(foreign, VectorStoreReserve::NoChat);
        let unknown = reserve(&db, of(db.user, ChatId::random())).await;
        assert_eq!(unknown, VectorStoreReserve::NoChat);
        let elsewhere = VectorStorePlace::new(TenantId::random(), db.user, db.chat);
        assert_eq!(reserve(&db, elsewhere).await, VectorStoreReserve::NoChat);
        reserved(&db).await;
        let foreign = reserve(&db, of(UserId::random(), db.chat)).await;
        assert_eq!(foreign, VectorStoreReserve::NoChat);
    }

    /// CONT-61: who does not know whether a place was reserved asks again.
    async fn a_place_is_recognized_by_who_reserved_it_alone(db: Db) {
        let own = reserved(&db).await;
        assert_eq!(reserve(&db, own).await, VectorStoreReserve::Reserved);
        let other = reserve(&db, place(&db)).await;
        assert!(matches!(other, VectorStoreReserve::Taken(_)), "{other:?}");
        let rows = "SELECT COUNT(*) FROM chat_vector_stores";
        assert_eq!(db.count(rows, []).await, 1);
        assert_eq!(close(&db, place(&db)).await, None);
        assert_eq!(db.count(rows, []).await, 1, "that of another one stays");
        assert_eq!(close(&db, own).await, None);
        assert_eq!(db.count(rows, []).await, 0);
        // Given back, it may be reserved again.
        assert_eq!(reserve(&db, own).await, VectorStoreReserve::Reserved);
        assert!(set(&db, own, "vs_1").await);
        let taken = reserve(&db, own).await;
        assert!(matches!(taken, VectorStoreReserve::Taken(_)), "{taken:?}");
    }

    /// CONT-61
    async fn an_id_is_set_once_and_a_place_given_back_only_without_one(db: Db) {
        let first = reserved(&db).await;
        assert_eq!(close(&db, first).await, None);
        assert_eq!(get(&db).await, None);
        assert!(!set(&db, first, "vs_late").await, "the row is gone");
        let second = reserved(&db).await;
        assert!(set(&db, second, "vs_1").await);
        assert!(!set(&db, second, "vs_2").await, "it has an id");
        assert_eq!(close(&db, second).await.as_deref(), Some("vs_1"));
        let (tenant, chat) = (db.tenant, db.chat);
        db.write(move |tx| tx.vector_store_count_file(tenant, chat)).await.unwrap();
        let found = get(&db).await.unwrap();
        assert_eq!(found.vector_store_id.as_deref(), Some("vs_1"));
        let counted = "SELECT file_count FROM chat_vector_stores WHERE chat_id = $1";
        assert_eq!(db.count(counted, params![chat]).await, 1);
    }

    /// CONT-61: "only while the chat is live", also if both happen at once.
    async fn no_store_is_reserved_in_a_chat_after_its_deletion(db: Db) {
        let place = place(&db);
        let (answer, deleted) = tokio::join!(reserve(&db, place), delete_chat(&db));
        assert!(deleted);
        let is_reserved = answer == VectorStoreReserve::Reserved;
        assert_eq!(is_reserved, get(&db).await.is_some());
        let late = VectorStorePlace::new(db.tenant, db.user, db.chat);
        assert_eq!(reserve(&db, late).await, VectorStoreReserve::NoChat);
        // The creator of a store can still leave it to the clean-up.
        if is_reserved {
            assert!(set(&db, place, "vs_1").await);
        }
    }
}
