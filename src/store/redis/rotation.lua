#!lua name=tokenbroker_@V@
--
-- How a grant may change: the same rules as src/store/transition.rs, each one atomic step.
--
-- KEYS   Every key of a call has the tag {NN} of the grant's shard, so all lie in one slot.
--   tb:{NN}:g:<grant_id>  hash   the grant, fields below
--   tb:{NN}:due           zset   grant_id -> time of the next refresh, ms
--   tb:{NN}:ids           zset   grant_id -> 0, for listing in order
--
-- FIELDS of the hash
--   gen   generation of the stored pair          pf   fence that published it
--   f     last fence given out                   st   'del' on a tombstone
--   b     the sealed pair
--   m     what operators say, sealed             mf   fence of the change that said it
--   v     the provider's no, sealed              vf   fence of the claim that it answered
--   igen  intent: generation being spent         io   intent: owner, JSON
--   ifn   intent: fence                          it   intent: server time, ms
--   d     doubt about the generation, JSON       df   fence of the claim that it belongs to
--   an    what the provider said last, JSON, where it was no success and no end
--   af    fence of the last change by people     dt    time of deletion, ms
--   s:<fence>  sealed pair of the same generation
--
-- Names carry a version made of this text, so that two versions of the broker never replace each
-- other's functions during a rollout. All but claim and start may run when Redis is full: a pair
-- that was received must find a place.

local function time_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- tostring(1790000000123) would print an exponent.
local function decimal(value)
  return string.format('%.0f', value)
end

-- A missing field counts as -1, below every generation and fence.
local function number(text)
  return tonumber(text or '-1') or -1
end

-- Marks are too large for Lua's numbers.
local function older(mark, than)
  return #mark < #than or (#mark == #than and mark < than)
end

local function clear_intent(grant)
  redis.call('HDEL', grant, 'igen', 'io', 'ifn', 'it', 'd', 'df')
end

local function clear_siblings(grant)
  for _, field in ipairs(redis.call('HKEYS', grant)) do
    if string.sub(field, 1, 2) == 's:' then
      redis.call('HDEL', grant, field)
    end
  end
end

local function set_due(due, id, due_at)
  if due_at == '' then
    redis.call('ZREM', due, id)
  else
    redis.call('ZADD', due, due_at, id)
  end
end

-- Whatever was there before, a tombstone with its time to live included, is gone.
local function begin(keys, id, generation, fence, about, described, blob, due_at)
  local grant = keys[1]
  redis.call('DEL', grant)
  redis.call('HSET', grant, 'gen', generation, 'pf', fence, 'f', fence, 'm', about, 'mf', described, 'b', blob)
  set_due(keys[2], id, due_at)
  redis.call('ZADD', keys[3], 0, id)
end

local function holds(grant, generation, fence)
  local held = redis.call('HMGET', grant, 'igen', 'ifn')
  return number(held[1]) == number(generation) and number(held[2]) == number(fence)
end

-- keys: grant due mark   args: generation, owner, least age in ms of an intent to take over ('' = never),
-- fence of the intent in doubt to take over ('' = none), ms until somebody looks again, grant_id, the
-- mark that the claimant has left
-- returns: granted fence time doubt doubt_fence
--        | busy generation owner fence time doubt doubt_fence | moved
--        | unlooked: the mark is not there, and so the store not the one that was looked at
local function claim(keys, args)
  local grant, generation, owner, lease, held, watch, id, mark = keys[1], unpack(args)
  if older(redis.call('HGET', keys[3], 'mark') or '', mark) then
    return { 'unlooked' }
  end
  local stored = redis.call('HMGET', grant, 'gen', 'st', 'vf', 'igen', 'io', 'ifn', 'it', 'f', 'd', 'df')
  local gen, st, vf, igen, io, ifn, it, f, d, df = unpack(stored)
  if number(gen) ~= number(generation) or st or vf then
    return { 'moved' }
  end
  local now = time_ms()
  if held ~= '' then
    if number(ifn) ~= number(held) then
      return { 'moved' }
    end
  elseif igen then
    if lease == '' or now - number(it) < number(lease) then
      return { 'busy', igen, io, ifn, it, d or '', df or '' }
    end
    redis.call('HDEL', grant, 'd', 'df')
    d, df = nil, nil
  end
  local fence = decimal(math.max(number(f) + 1, now))
  redis.call('HSET', grant, 'f', fence, 'igen', generation, 'io', owner, 'ifn', fence, 'it', decimal(now))
  local due = tonumber(redis.call('ZSCORE', keys[2], id) or 'inf')
  redis.call('ZADD', keys[2], decimal(math.min(due, now + number(watch))), id)
  return { 'granted', fence, decimal(now), d or '', df or '' }
end

-- keys: grant due   args: generation, fence, doubt, due time ('' = none), grant_id   returns: 1 | 0
local function doubt(keys, args)
  if not holds(keys[1], args[1], args[2]) then
    return 0
  end
  redis.call('HSET', keys[1], 'd', args[3], 'df', args[2])
  set_due(keys[2], args[5], args[4])
  return 1
end

-- keys: grant   args: generation, fence, what the provider said ('' = nothing new)   returns: 1 | 0
local function release(keys, args)
  if not holds(keys[1], args[1], args[2]) then
    return 0
  end
  if args[3] ~= '' then
    redis.call('HSET', keys[1], 'an', args[3])
  end
  if redis.call('HEXISTS', keys[1], 'd') == 1 then
    redis.call('HSET', keys[1], 'df', args[2])
  else
    clear_intent(keys[1])
  end
  return 1
end

-- keys: grant due ids   args: generation, fence, sealed pair, due time ('' = none), grant_id, what
-- operators say and its fence, '1' makes a missing grant again, who holds it from then on ('' = nobody),
-- what the provider said with the pair ('' = nothing but success)
-- returns: published | same | sibling | old | remade | missing
local function merge(keys, args)
  local grant, due = keys[1], keys[2]
  local generation, fence, blob, due_at, id, about, described = unpack(args)
  local gen, pf, st, vf, f, mf = unpack(redis.call('HMGET', grant, 'gen', 'pf', 'st', 'vf', 'f', 'mf'))
  if number(gen) > number(generation) or (number(gen) == number(generation) and st) then
    return 'old'
  end
  if not gen or st then
    if args[8] == '' then
      return 'missing'
    end
    begin(keys, id, generation, fence, about, described, blob, due_at)
    if args[10] ~= '' then
      redis.call('HSET', grant, 'an', args[10])
    end
    if args[9] ~= '' then
      local held = decimal(number(fence) + 1)
      redis.call('HSET', grant, 'f', held, 'igen', generation, 'io', args[9], 'ifn', held, 'it', decimal(time_ms()))
    end
    return 'remade'
  end
  if number(mf) < number(described) then
    redis.call('HSET', grant, 'm', about, 'mf', described)
  end
  if number(gen) == number(generation) then
    if number(pf) == number(fence) or redis.call('HEXISTS', grant, 's:' .. fence) == 1 then
      return 'same'
    end
    if number(pf) > number(fence) then
      redis.call('HSET', grant, 's:' .. fence, blob)
      return 'sibling'
    end
    redis.call('HSET', grant, 's:' .. pf, redis.call('HGET', grant, 'b'))
    if vf and number(vf) < number(fence) then
      redis.call('HDEL', grant, 'v', 'vf')
    end
  else
    clear_siblings(grant)
    clear_intent(grant)
    redis.call('HDEL', grant, 'v', 'vf', 'an')
    if args[10] ~= '' then
      redis.call('HSET', grant, 'an', args[10])
    end
  end
  local last = decimal(math.max(number(f), number(fence)))
  redis.call('HSET', grant, 'gen', generation, 'pf', fence, 'f', last, 'b', blob)
  set_due(due, id, due_at)
  return 'published'
end

-- keys: grant due   args: generation, fence, verdict, grant_id   returns: 1 | 0
local function refuse(keys, args)
  local grant, generation, fence, verdict, id = keys[1], args[1], args[2], args[3], args[4]
  local gen, vf = unpack(redis.call('HMGET', grant, 'gen', 'vf'))
  if vf and number(vf) == number(fence) then
    return 1
  end
  if number(gen) ~= number(generation) or not holds(grant, generation, fence) then
    return 0
  end
  redis.call('HSET', grant, 'v', verdict, 'vf', fence)
  clear_intent(grant)
  redis.call('ZREM', keys[2], id)
  return 1
end

-- Another pair of the same generation takes the place of the one that was refused.
-- keys: grant   args: generation, fence, fence of the sibling, sealed pair   returns: 1 | 0
local function promote(keys, args)
  local grant, generation, fence, sibling, blob = keys[1], unpack(args)
  if not holds(grant, generation, fence) or redis.call('HDEL', grant, 's:' .. sibling) == 0 then
    return 0
  end
  redis.call('HSET', grant, 'b', blob, 'pf', fence)
  clear_intent(grant)
  return 1
end

-- The grant is where the caller read it: same generation, same last fence; or it does not exist.
local function bury(keys, generation, fence, life, id)
  local grant = keys[1]
  redis.call('DEL', grant)
  redis.call('HSET', grant, 'gen', generation, 'pf', fence, 'f', fence, 'st', 'del', 'dt', decimal(time_ms()))
  redis.call('PEXPIRE', grant, life)
  redis.call('ZREM', keys[2], id)
  redis.call('ZREM', keys[3], id)
  return 1
end

local function unchanged(grant, generation, fence)
  local gen, f = unpack(redis.call('HMGET', grant, 'gen', 'f'))
  return (gen or '') == generation and (f or '') == fence
end

-- keys: grant due ids   args: expected generation and last fence ('' = missing), generation, fence,
-- what operators say and its fence, sealed pair, due time ('' = none), grant_id   returns: 1 | 0
local function start(keys, args)
  if not unchanged(keys[1], args[1], args[2]) then
    return 0
  end
  local generation, fence, about, described, blob, due_at, id = unpack(args, 3)
  begin(keys, id, generation, fence, about, described, blob, due_at)
  return 1
end

-- keys: grant due   args: expected generation and last fence, fence, '1' lifts the verdict, due time
-- ('' = as it is), grant_id, what operators say ('' = as it is), owner and doubt of the claim under
-- which the generation is in doubt ('' = as it is), what the provider said last, with a lifted verdict
-- ('' = forgotten)   returns: 1 | 0
local function amend(keys, args)
  local grant = keys[1]
  if not unchanged(grant, args[1], args[2]) then
    return 0
  end
  redis.call('HSET', grant, 'f', args[3], 'af', args[3])
  if args[4] == '1' then
    redis.call('HDEL', grant, 'v', 'vf', 'an')
    if args[10] ~= '' then
      redis.call('HSET', grant, 'an', args[10])
    end
  end
  if args[5] ~= '' then
    redis.call('ZADD', keys[2], args[5], args[6])
  end
  if args[7] ~= '' then
    redis.call('HSET', grant, 'm', args[7], 'mf', args[3])
  end
  if args[9] ~= '' then
    redis.call('HSET', grant, 'igen', args[1], 'io', args[8], 'ifn', args[3], 'it', decimal(time_ms()), 'd', args[9], 'df', args[3])
  end
  return 1
end

-- keys: grant due ids   args: expected generation and last fence, generation, fence, life of the
-- tombstone in ms, grant_id   returns: 1 | 0
local function delete(keys, args)
  local grant = keys[1]
  if not unchanged(grant, args[1], args[2]) then
    return 0
  end
  return bury(keys, args[3], args[4], args[5], args[6])
end

-- Whether anything in the record can be relied on.
local function legible(grant)
  local kind = redis.call('TYPE', grant).ok
  if kind ~= 'hash' then
    return kind == 'none'
  end
  local intent = redis.call('HEXISTS', grant, 'io') == 1
  local fields = redis.call('HMGET', grant, 'gen', 'pf', 'f', 'igen', 'ifn', 'it')
  for index = 1, intent and 6 or 3 do
    if not tonumber(fields[index] or '') then
      return false
    end
  end
  for _, field in ipairs({ 'io', 'd' }) do
    local text = redis.call('HGET', grant, field) or ''
    if text ~= '' and not pcall(cjson.decode, text) then
      return false
    end
  end
  return true
end

-- In the place of a record that cannot be read.
-- keys: grant due ids   args: generation, fence, what operators say and its fence, sealed pair, due
-- time ('' = none), grant_id   returns: 1 | 0
local function start_over(keys, args)
  if legible(keys[1]) then
    return 0
  end
  local generation, fence, about, described, blob, due_at, id = unpack(args)
  begin(keys, id, generation, fence, about, described, blob, due_at)
  return 1
end

-- keys: grant due ids   args: generation, fence, life of the tombstone in ms, grant_id   returns: 1 | 0
local function discard(keys, args)
  if legible(keys[1]) then
    return 0
  end
  return bury(keys, args[1], args[2], args[3], args[4])
end

-- Heals with a deletion: a tombstone, unless what is there is not older.
-- keys: grant due ids   args: generation, fence, life of the tombstone in ms, grant_id   returns: 1 | 0
local function entomb(keys, args)
  local gen, pf, af, vf = unpack(redis.call('HMGET', keys[1], 'gen', 'pf', 'af', 'vf'))
  local fence = math.max(number(pf), number(af), number(vf))
  local newer = number(gen) > number(args[1])
  if newer or (number(gen) == number(args[1]) and fence >= number(args[2])) then
    return 0
  end
  return bury(keys, args[1], args[2], args[3], args[4])
end

-- A record of format 1 gets its sealed parts.
-- keys: grant   args: expected generation and last fence, what operators say and its fence, the
-- provider's no ('' = none)   returns: 1 | 0
local function convert(keys, args)
  local grant = keys[1]
  if not unchanged(grant, args[1], args[2]) then
    return 0
  end
  redis.call('HSET', grant, 'm', args[3], 'mf', args[4])
  if args[5] ~= '' then
    redis.call('HSET', grant, 'v', args[5])
  end
  return 1
end

-- keys: grant due   args: generation, due time, grant_id
local function schedule(keys, args)
  local gen, st, vf = unpack(redis.call('HMGET', keys[1], 'gen', 'st', 'vf'))
  if number(gen) == number(args[1]) and not st and not vf then
    redis.call('ZADD', keys[2], args[2], args[3])
  end
  return 1
end

-- Looks into one index after the other until there are enough: the caller begins elsewhere each time,
-- so that none starves behind a crowded one.
-- keys: due indexes   args: most grants, visibility ms
-- returns: grant_ids, hidden for that long; indexes looked into; places of those that are none
local function take_due(keys, args)
  local now = time_ms()
  local taken, odd, looked = {}, {}, 0
  for place, due in ipairs(keys) do
    local most = number(args[1]) - #taken
    if most <= 0 then
      break
    end
    looked = place
    local ids = redis.pcall('ZRANGEBYSCORE', due, '-inf', decimal(now), 'LIMIT', 0, most)
    if ids.err then
      table.insert(odd, place - 1)
    else
      for _, id in ipairs(ids) do
        redis.call('ZADD', due, 'XX', decimal(now + number(args[2])), id)
        table.insert(taken, id)
      end
    end
  end
  return { taken, looked, odd }
end

-- Keeps a note for a time, unless there is one; says which one is there.
-- keys: note   args: note, its life in ms
local function keep(keys, args)
  local there = redis.call('HGET', keys[1], 'note')
  if there then
    return there
  end
  redis.call('HSET', keys[1], 'note', args[1])
  redis.call('PEXPIRE', keys[1], args[2])
  return args[1]
end

-- Puts a member on lists for a time, once; on none where one of them is full.
-- keys: lists   args: member, its life in ms, the most of each list
-- returns: nothing | place of the list that is full, ms until it has room
local function enlist(keys, args)
  local now = time_ms()
  for place, list in ipairs(keys) do
    redis.call('ZREMRANGEBYSCORE', list, '-inf', decimal(now))
    if not redis.call('ZSCORE', list, args[1]) and redis.call('ZCARD', list) >= number(args[place + 2]) then
      local first = redis.call('ZRANGE', list, 0, 0, 'WITHSCORES')
      return { place - 1, math.max(number(first[2]) - now, 0) }
    end
  end
  for _, list in ipairs(keys) do
    redis.call('ZADD', list, 'NX', decimal(now + number(args[2])), args[1])
    redis.call('PEXPIRE', list, args[2])
  end
  return {}
end

-- Looks at a note; an empty one was taken out.
-- keys: note
local function look(keys)
  return redis.call('HGET', keys[1], 'note')
end

-- Takes a note out: nobody gets it twice. An empty one stays in its place for as long.
-- keys: note
local function pick(keys, args)
  local note = redis.call('HGET', keys[1], 'note')
  if note then
    redis.call('HSET', keys[1], 'note', '')
  end
  return note or ''
end

-- Says in the channel of the prefix that something happened. Who may not publish changes things all the
-- same.
local function tell(prefix, what)
  redis.pcall('PUBLISH', prefix .. ':events', what)
end

-- Leaves a mark, and says which one was there. Like a claim it is refused when Redis is full: it
-- proves that a claim could be written. It needs no right that a claim does not.
-- keys: mark replicas compared   args: mark, its life in ms, name of the replica ('' = it has not been
-- compared with any server yet), how long replicas are remembered in ms
-- returns: the one before, time in ms, names of replicas each with the server that it was compared with
local function mark(keys, args)
  local before = redis.call('HGET', keys[1], 'mark')
  redis.call('HSET', keys[1], 'mark', args[1])
  redis.call('PEXPIRE', keys[1], args[2])
  -- Whoever listens knows by it that the link is alive.
  tell(string.match(keys[1], '^(.*):mark:'), 'mark')
  local now = time_ms()
  -- Counted from when anybody was here last: all may have been away for long.
  local last = number(redis.call('ZRANGE', keys[2], -1, -1, 'WITHSCORES')[2])
  local old = math.min(now, math.max(last, 0)) - number(args[4])
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', keys[2], '-inf', decimal(old))) do
    redis.call('ZREM', keys[2], name)
    redis.call('HDEL', keys[3], name)
  end
  if args[3] ~= '' then
    redis.call('ZADD', keys[2], decimal(now), args[3])
  end
  local replicas = {}
  for _, name in ipairs(redis.call('ZRANGE', keys[2], 0, -1)) do
    table.insert(replicas, name)
    table.insert(replicas, redis.call('HGET', keys[3], name) or '')
  end
  return { before or '', decimal(now), replicas }
end

-- A value that all replicas share: each change is made on top of the one that was read.
-- keys: shared   returns: value, which change it is, its age in ms | nothing
local function shared(keys)
  local value, change, time = unpack(redis.call('HMGET', keys[1], 'b', 'n', 't'))
  if not value then
    return {}
  end
  return { value, change, decimal(math.max(time_ms() - number(time), 0)) }
end

-- keys: shared   args: the change that was read (0 = none), value, its life in ms   returns: 1 | 0
local function exchange(keys, args)
  local change = redis.call('HGET', keys[1], 'n') or '0'
  if change ~= args[1] then
    return 0
  end
  redis.call('HSET', keys[1], 'n', decimal(number(change) + 1), 'b', args[2], 't', decimal(time_ms()))
  redis.call('PEXPIRE', keys[1], args[3])
  local prefix, client = string.match(keys[1], '^(.*):trouble:(.*)$')
  if prefix then
    tell(prefix, 'trouble ' .. client)
  end
  return 1
end

-- Since when it has been this server, as whoever sees it first says, and whom nobody waits for any more at
-- it. No replica has a name with a space.
-- keys: replicas compared   args: the server   returns: for how long, in ms, and names
local function since(keys, args)
  local gone = {}
  for _, field in ipairs(redis.call('HKEYS', keys[2])) do
    table.insert(gone, string.match(field, '^ gone:(.*)$'))
  end
  if redis.call('HGET', keys[2], ' server') ~= args[1] then
    redis.call('HSET', keys[2], ' server', args[1], ' since', decimal(time_ms()))
    for _, name in ipairs(gone) do
      redis.call('HDEL', keys[2], ' gone:' .. name)
    end
    gone = {}
  end
  return { decimal(math.max(time_ms() - number(redis.call('HGET', keys[2], ' since')), 0)), gone }
end

-- What a replica knew is given up, for as long as it is this server.
-- keys: replicas compared   args: the server, name of the replica
local function give_up(keys, args)
  if redis.call('HGET', keys[2], ' server') == args[1] then
    redis.call('HSET', keys[2], ' gone:' .. args[2], '1')
  end
  return 1
end

-- A replica has given this server what it knows and the server lacked.
-- keys: replicas compared   args: name of the replica, the server
local function compared(keys, args)
  redis.call('ZADD', keys[1], decimal(time_ms()), args[1])
  redis.call('HSET', keys[2], args[1], args[2])
  return 1
end

-- A replica ends, and is waited for by nobody.
-- keys: replicas compared   args: its name
local function leave(keys, args)
  redis.call('ZREM', keys[1], args[1])
  redis.call('HDEL', keys[2], args[1])
  return 1
end

-- How fast a provider is asked, by all replicas together: moments in microseconds, one every
-- 1 / rate seconds. Fields: the first moment that is not given out (n), the share of the rate in
-- thousandths (s) and when it was so (sa), until when the provider limits us (u), when it was looked
-- at last (t).
local WHOLE, LEAST, REGROWTH = 1000, 16, 5 / 1e6
local DAY = 86400e6

local function time_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1e6 + tonumber(time[2])
end

-- What is no such record begins anew: it would stop everything for ever.
local function rate(key, now)
  local stored = redis.pcall('HMGET', key, 'n', 's', 'sa', 'u', 't')
  if stored.err then
    redis.call('DEL', key)
    stored = {}
  end
  local function field(place, otherwise)
    return tonumber(stored[place] or '') or otherwise
  end
  -- A clock that was set back takes what it has said with it.
  local back = math.max(field(5, now) - now, 0)
  return {
    next = math.min(field(1, 0) - back, now + DAY),
    share = field(2, WHOLE),
    share_at = field(3, 0) - back,
    limited = math.min(field(4, 0) - back, now + DAY),
  }
end

local function share(rate, now)
  return math.min(rate.share + math.max(now - rate.share_at, 0) * REGROWTH, WHOLE)
end

local function keep_rate(key, rate, now)
  redis.call('HSET', key, 'n', decimal(rate.next), 's', decimal(rate.share), 'sa', decimal(rate.share_at), 'u', decimal(rate.limited), 't', decimal(now))
  redis.call('PEXPIRE', key, decimal((math.max(rate.next - now, 0) + DAY) / 1000))
end

-- Gives moments out, to nobody else.
-- keys: rate   args: requests in a second, at once after a pause, moments, how far ahead
-- returns: moments; wait of the first; from one to the next
local function book(keys, args)
  local now = time_us()
  local rate = rate(keys[1], now)
  local step = 1e6 * WHOLE / (number(args[1]) * share(rate, now))
  local first = math.max(rate.next, now - (number(args[2]) - 1) * step)
  local within = math.floor((now + number(args[4]) - first) / step) + 1
  local count = math.min(number(args[3]), math.max(within, 0))
  rate.next = first + count * step
  keep_rate(keys[1], rate, now)
  return { count, decimal(first - now), decimal(step) }
end

-- The provider limits our rate: nothing is given out for a while, then half as much, which grows back.
-- keys: rate   args: the wait that it asked for ('' = none), the shortest, the longest where it asked
-- for none, for how long the request was under way
local function slow_down(keys, args)
  local now = time_us()
  local rate = rate(keys[1], now)
  local left, least = share(rate, now), number(args[2])
  -- What was on its way when the limit was met is the same event.
  if now - number(args[4]) >= rate.limited then
    left = math.max(math.floor(left / 2), LEAST)
  end
  local told = tonumber(args[1])
  local wait = told and math.min(math.max(told, least), DAY) or math.min(least * WHOLE / 2 / left, number(args[3]))
  rate.limited = math.max(rate.limited, now + wait)
  rate.share, rate.share_at = math.floor(left), rate.limited
  rate.next = math.max(rate.next, rate.limited)
  keep_rate(keys[1], rate, now)
  return 1
end

-- A function that says which grant it changed: generation, last fence, name. Its first key is the grant.
local function telling(change)
  return function(keys, args)
    local answer = change(keys, args)
    if answer == 1 or answer == 'published' or answer == 'remade' then
      local prefix, id = string.match(keys[1], '^(.*):{%x%x}:g:(.*)$')
      local gen, f = unpack(redis.call('HMGET', keys[1], 'gen', 'f'))
      if prefix and gen then
        tell(prefix, gen .. ' ' .. (f or '0') .. ' ' .. id)
      end
    end
    return answer
  end
end

local function register(name, callback, flags)
  redis.register_function({ function_name = 'tb_' .. name .. '_@V@', callback = callback, flags = flags })
end

register('claim', claim, {})
register('start', telling(start), {})
register('mark', mark, {})
register('compared', compared, { 'allow-oom' })
register('leave', leave, { 'allow-oom' })
register('since', since, { 'allow-oom' })
register('give_up', give_up, { 'allow-oom' })
register('keep', keep, {})
register('enlist', enlist, {})
register('look', look, { 'no-writes' })
register('pick', pick, { 'allow-oom' })
register('shared', shared, { 'no-writes' })
register('exchange', exchange, { 'allow-oom' })
register('start_over', telling(start_over), {})
register('discard', telling(discard), { 'allow-oom' })
register('entomb', telling(entomb), { 'allow-oom' })
register('doubt', doubt, { 'allow-oom' })
register('release', release, { 'allow-oom' })
register('merge', telling(merge), { 'allow-oom' })
register('refuse', telling(refuse), { 'allow-oom' })
register('promote', telling(promote), { 'allow-oom' })
register('amend', telling(amend), { 'allow-oom' })
register('delete', telling(delete), { 'allow-oom' })
register('convert', convert, { 'allow-oom' })
register('schedule', schedule, { 'allow-oom' })
register('take_due', take_due, { 'allow-oom' })
register('book', book, { 'allow-oom' })
register('slow_down', slow_down, { 'allow-oom' })
