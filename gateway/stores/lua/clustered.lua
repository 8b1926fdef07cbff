-- On a Cluster: while the slot is on its way to another node, keys go one by one, and a script would find half of them
-- gone after it has changed the others. A key that never exists is refused by then, before anything has changed.

redis.call('EXISTS', TAG .. 'nowhere')
