//! The contract of [`weir_store::Store`]: each promise is one test, held by every backend. And what only etcd can do
//! to us.

mod backend;
mod backups;
mod etcd_faults;
mod promises;

use promises::{history, leases, reading, watching, writing};

/// Runs each promise against a fresh store of both backends.
macro_rules! hold {
    ($($part:ident: $($promise:ident),* $(,)?;)*) => {
        mod embedded {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let backend = crate::backend::Embedded::start();
                    super::$part::$promise(backend.store()).await;
                }
            )*)*
        }

        mod etcd {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let Some(backend) = crate::backend::EtcdServer::start() else { return };
                    super::$part::$promise(backend.store().await).await;
                }
            )*)*
        }
    };
}

hold! {
    writing:
        an_empty_store_is_at_revision_one,
        a_key_remembers_when_it_was_created_and_changed,
        a_deleted_key_is_absent_and_starts_anew,
        a_changing_transaction_takes_one_revision_for_all_its_keys,
        a_transaction_that_changes_nothing_takes_no_revision,
        a_failed_compare_changes_nothing_and_tells_what_is_there,
        a_transaction_needs_all_its_compares,
        of_many_racing_for_one_revision_exactly_one_wins,
        transactions_that_can_never_work_are_refused,
        the_largest_transaction_is_accepted;
    reading:
        a_list_holds_the_prefix_only_in_byte_order,
        an_empty_prefix_lists_everything,
        pages_tell_how_much_follows,
        pages_of_one_revision_show_one_moment,
        a_large_list_comes_whole;
    history:
        the_past_can_be_listed,
        the_future_cannot_be_read,
        a_compacted_past_is_refused_clearly,
        compacting_twice_does_nothing_and_the_future_is_refused,
        a_watch_of_what_is_compacted_is_refused_clearly;
    watching:
        a_watch_tells_changes_in_order_with_what_was_before,
        a_watch_from_the_past_replays_it_and_goes_on,
        a_watch_from_zero_begins_with_the_next_change,
        a_watch_tells_of_its_prefix_only,
        all_changes_of_a_transaction_come_in_one_batch,
        a_watch_far_behind_misses_nothing_while_others_write,
        many_watches_see_the_same,
        a_quiet_watch_is_told_how_far_it_is,
        a_watch_that_is_not_read_holds_back_no_one_and_never_skips;
    leases:
        revoking_a_lease_deletes_its_keys_in_one_revision,
        a_lease_not_kept_alive_ends,
        a_lease_kept_alive_goes_on,
        a_key_put_again_without_the_lease_outlives_it,
        a_lease_that_is_not_there_is_named;
}
