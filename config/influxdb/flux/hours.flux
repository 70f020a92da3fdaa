// The hours of a meter in the last week; `coverage` is the share of the hour that was measured.
from(bucket: "charging_data_hourly")
    |> range(start: -7d)
    |> filter(fn: (r) => r._measurement == "meter_reading")
    |> filter(fn: (r) => r.meter_name == "Main Building Meter")
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> keep(
        columns: [
            "_time",
            "energy_delta_kwh",
            "power_kw",
            "power_min_kw",
            "power_max_kw",
            "coverage",
        ],
    )
