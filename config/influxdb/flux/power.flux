// Mean power of a meter in steps of five minutes; a step without a reading is empty.
from(bucket: "charging_data")
    |> range(start: -24h)
    |> filter(fn: (r) => r._measurement == "meter_reading" and r._field == "power_kw")
    |> filter(fn: (r) => r.meter_name == "Main Building Meter")
    |> aggregateWindow(every: 5m, fn: mean, createEmpty: true, timeSrc: "_start")
