// The energy of each day of all meters of a site in the last month. A day begins at midnight there.
from(bucket: "charging_data_daily")
    |> range(start: -31d)
    |> filter(fn: (r) => r._measurement == "meter_reading" and r.site == "site")
    |> filter(fn: (r) => contains(value: r._field, set: ["energy_delta_kwh", "coverage"]))
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> group(columns: ["meter_id", "meter_name", "meter_type"])
