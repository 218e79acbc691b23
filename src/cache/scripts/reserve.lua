-- Reserves numbers for a write that was announced, once the store was asked for the greatest that it has.
-- keys_ms: that keys live; wanted: numbers; own_us: the replica's clock; skew_us: how far Redis's may be from it; lost_us:
-- how far numbers may have been reserved ahead of the clock; process: of Redis, as the replica knows it; above: what the
-- store says, or ''
-- Gives the first.

local function session(keys_ms, wanted, own_us, skew_us, lost_us, process, above)
  local clock, last, is_known = clock_to_number_by(own_us, skew_us), last_reserved(process)
  above = tonumber(above)
  if last and last > math.max(own_us, above or own_us) + skew_us then
    -- Neither a clock nor the store is near: it comes from a clock that was wrong for a moment.
    last = nil
  elseif not is_known and above and above > clock - keys_ms * 1000 then
    -- The key would have outlived the time since then, so the latest was lost, perhaps just now.
    clock = clock + lost_us
  end
  return reserve(math.max(clock, (last or clock) + 1, (above or clock) + 1), wanted, keys_ms, process)
end
