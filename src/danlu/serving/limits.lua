-- The window and the quota of limits.py for one key, kept in Redis. One call is one act; Redis runs them one by one.
--
-- KEYS  1 the key's figures: o the oldest second that counts · R T the window's sums · r<i> t<i> those of a second,
--         i its remainder by 64 · m the month · q what it spent (absent: not known) · p what is reserved of it
--       2 its leases, sorted by their end; a lease reads id|second|month|tokens
-- ARGV  1 act · 2 now (0: by Redis' clock) · 3 month · then as each act says
local WINDOW, RING = 60, 64
local act, now, month = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then
  local clock = redis.call('TIME')
  now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
end

if act == 'renew' then -- 4 seconds · 5... leases
  for i = 5, #ARGV do redis.call('ZADD', KEYS[2], 'XX', now + tonumber(ARGV[4]), ARGV[i]) end
  return 1
end

local known = redis.call('HMGET', KEYS[1], 'o', 'R', 'T', 'm', 'q', 'p')
local o, R, T = tonumber(known[1]) or 0, tonumber(known[2]) or 0, tonumber(known[3]) or 0
local m, q, p = tonumber(known[4]) or 0, tonumber(known[5]), tonumber(known[6]) or 0

local function whole(number) return string.format('%.0f', number) end

local function ring_of(letter, first, last)
  local fields = {}
  for second = first, last do fields[#fields + 1] = letter .. second % RING end
  return fields, redis.call('HMGET', KEYS[1], unpack(fields))
end

-- Seconds that no longer count are let go of, then a month that is over, then leases that nobody renewed.
local second = math.max(math.floor(now), o)
local edge = second - WINDOW
if o < edge then
  if R > 0 or T > 0 then
    local last, gone = math.min(edge, o + RING) - 1, {}
    for _, letter in ipairs({'r', 't'}) do
      local fields, found = ring_of(letter, o, last)
      for i = 1, #fields do
        if found[i] then
          gone[#gone + 1] = fields[i]
          if letter == 'r' then R = R - tonumber(found[i]) else T = T - tonumber(found[i]) end
        end
      end
    end
    if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
  end
  o = edge
end
if m < month then m, p, q = month, 0, nil end
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', whole(now * 1000) / 1000)) do
  local of_second, of_month, tokens = string.match(lease, '|(%d+)|(%d+)|(%d+)$')
  of_second, tokens = tonumber(of_second), tonumber(tokens)
  if tonumber(of_month) == m then p = p - tokens end
  if of_second >= o then
    T = T - tokens
    redis.call('HINCRBY', KEYS[1], 't' .. of_second % RING, whole(-tokens))
  end
  redis.call('ZREM', KEYS[2], lease)
end

local function kept()
  redis.call('HSET', KEYS[1], 'o', whole(o), 'R', whole(R), 'T', whole(T), 'm', m, 'p', whole(p))
  if q then redis.call('HSET', KEYS[1], 'q', whole(q)) else redis.call('HDEL', KEYS[1], 'q') end
  redis.call('EXPIRE', KEYS[1], 40 * 86400)
end

if act == 'restore' then -- 4 what usage says was spent
  q = math.max(q or 0, tonumber(ARGV[4]) - p)
  kept()
  return 1
end

if act == 'charge' then -- 4 second · 5 requests · 6 tokens, which were admitted while this was away
  local of_second, requests, tokens = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  if of_second > second then of_second = second end
  if of_second >= o then
    R, T = R + requests, T + tokens
    redis.call('HINCRBY', KEYS[1], 'r' .. of_second % RING, whole(requests))
    redis.call('HINCRBY', KEYS[1], 't' .. of_second % RING, whole(tokens))
  end
  kept()
  return 1
end

if act == 'settle' then -- 4 lease · 5 its second · 6 its month · 7 reserved · 8 used · 9 whether it may have come before
  local of_second, of_month, was, used = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
  if redis.call('ZREM', KEYS[2], ARGV[4]) == 0 then
    if ARGV[9] == '1' then return 0 end
    was = 0 -- it had run out and was given back
  end
  if of_second >= o and used ~= was then
    T = T + used - was
    redis.call('HINCRBY', KEYS[1], 't' .. of_second % RING, whole(used - was))
  end
  if of_month == m then
    p = p - was
    if q then q = q + used end
  end
  kept()
  return 1
end

-- reserve: 4 tokens · 5 requests a minute · 6 tokens a minute · 7 concurrency · 8 tokens a month
--          9 what usage says was spent (-1: not asked) · 10 lease · 11 its seconds
local tokens, rpm, tpm = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local most, quota, spent = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
if quota > 0 and not q then
  if spent < 0 then
    kept()
    return {-1, 0, 0, '0', '', 0}
  end
  q = math.max(0, spent - p)
end

local function free_after(letter, wanted)
  local _, found = ring_of(letter, o, o + RING - 1)
  for i = 1, RING do
    wanted = wanted - (tonumber(found[i]) or 0)
    if wanted <= 0 then return math.max(0.001, o + i - 1 + WINDOW + 1 - now) end
  end
  return WINDOW
end

local what, retry = 0, 0
if rpm > 0 and R + 1 > rpm then
  what, retry = 1, free_after('r', R + 1 - rpm)
elseif tpm > 0 and T + tokens > tpm then
  what = 2
  if tokens <= tpm then retry = free_after('t', T + tokens - tpm) end
elseif most > 0 and redis.call('ZCARD', KEYS[2]) + 1 > most then
  what, retry = 3, 1
elseif quota > 0 and q + p + tokens > quota then
  what = 4
end
local lease = ''
if what == 0 then
  R, T, p = R + 1, T + tokens, p + tokens
  redis.call('HINCRBY', KEYS[1], 'r' .. second % RING, 1)
  redis.call('HINCRBY', KEYS[1], 't' .. second % RING, whole(tokens))
  lease = ARGV[10] .. '|' .. whole(second) .. '|' .. m .. '|' .. whole(tokens)
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[11]), lease)
  redis.call('EXPIRE', KEYS[2], 86400)
end
kept()
return {what, R, T, tostring(retry), lease, m}
