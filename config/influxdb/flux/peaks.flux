// The largest power of each meter of a site within a month, and in which hour it was.
from(bucket: "charging_data_hourly")
    |> range(start: -31d)
    |> filter(fn: (r) => r._measurement == "meter_reading" and r._field == "power_max_kw")
    |> filter(fn: (r) => r.site == "site")
    |> group(columns: ["meter_id", "meter_name"])
    |> max()
