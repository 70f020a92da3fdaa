// The last reading of each meter of a site, with its time: what is old is old.
from(bucket: "charging_data")
    |> range(start: -24h)
    |> filter(fn: (r) => r._measurement == "meter_reading" and r.site == "site")
    |> filter(fn: (r) => r._field == "power_kw" or r._field == "energy_kwh")
    |> last()
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
