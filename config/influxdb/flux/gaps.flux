// The hours of the last month of which something was not measured.
from(bucket: "charging_data_hourly")
    |> range(start: -31d)
    |> filter(fn: (r) => r._measurement == "meter_reading" and r._field == "coverage")
    |> filter(fn: (r) => r.site == "site" and r._value < 1.0)
    |> group(columns: ["meter_id", "meter_name"])
