resource "google_cloud_run_v2_service_iam_member" "$label" {
  name     = "$service"
  location = "$region"
  role     = "$role"
  member   = "$member"
}
