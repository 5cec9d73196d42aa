from dapo.algo.vocabulary import end_ids, tokenless_ids


def test_end_ids_of_all_sources() -> None:
    assert end_ids(7, None, [9, 7], 3) == (3, 7, 9)
    assert end_ids(None, None) == ()


def test_ids_without_a_token_are_those_at_the_end_and_those_between() -> None:
    assert tokenless_ids([0, 1, 2, 5], vocabulary=8, ends=[]) == (3, 4, 6, 7)
    assert tokenless_ids(range(10), vocabulary=8, ends=[]) == ()


def test_an_id_that_ends_responses_may_lack_a_token() -> None:
    assert tokenless_ids([0, 1], vocabulary=4, ends=[3]) == (2,)
